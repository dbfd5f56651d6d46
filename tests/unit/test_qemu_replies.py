"""What a QEMU that was broken into may say: whatever it is, the agent goes on, and the VM can be ended."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError
from host_agent.hypervisors.qemu import snapshot_jobs
from host_agent.hypervisors.qemu.command import OVERLAY, QMP_SOCKET
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, MachineCommand, SnapshotRecords
from host_agent.hypervisors.qemu.life import Life
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.memory import give_up_writing
from host_agent.hypervisors.qemu.statistics import _asked
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.vms import VmState
from tests.broker.polling import until

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}
MALFORMED = [{}, [], "words", None, 7, {"status": 1}, [{}], [{"id": 1}], {"ram": {"total": "all"}}]


@asynccontextmanager
async def machine(
    home: Path, process: ProcessIdentity, answer: Any, more: bytes = b"", heard: list[str] | None = None
) -> AsyncIterator[QemuMachine]:
    """Give a machine whose QEMU answers everything so, and says ``more`` after each answer; its events are heard."""
    events = heard if heard is not None else []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        while data := await reader.read(4096):
            if data.strip():
                order = json.loads(data)
                told = {} if order["execute"] == "qmp_capabilities" else answer
                named = {"id": order["id"]} if "id" in order else {}
                writer.write(json.dumps({"return": told} | named).encode() + b"\r\n")
                if "id" in order:
                    writer.write(more)
        writer.close()

    home.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(serve, home / QMP_SOCKET)
    made = QemuMachine(home, process, lambda event, data: events.append(event), lambda: None)
    await made.monitor.wait_connected(30)
    yield made
    await made.close()
    server.close()


@pytest.fixture
def process() -> Iterator[ProcessIdentity]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield ProcessIdentity.of(started.pid)
        started.kill()


@pytest.mark.parametrize("answer", MALFORMED)
async def test_an_answer_of_the_wrong_shape_is_a_hypervisors_error_and_the_vm_can_be_ended(
    tmp_path: Path, process: ProcessIdentity, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host_agent.hypervisors.qemu.machine.QUIT_TIMEOUT_S", 0.1)
    async with machine(tmp_path / "vm-a", process, answer) as made:
        state = await made.state()
        for ask in (lambda: _asked(made), lambda: snapshot_jobs._nodes(made), lambda: snapshot_jobs._jobs(made)):
            if not isinstance(answer, list):
                with pytest.raises(HypervisorError, match=r"QEMU's answer to query-\S+ is of no use"):
                    await ask()
        with pytest.raises(HypervisorError):
            await give_up_writing(made, runs_on=False)
        await made.quit()

    assert state is VmState.UNKNOWN
    assert made.watch.has_ended


@pytest.mark.parametrize(
    "words", [b'{"event": "STOP", "data": 5}\r\n', b'{"event": []}\r\n', b'{"id": []}\r\n', b"[" * 50_000 + b"\r\n"]
)
async def test_words_that_are_no_qmp_cost_the_connection_at_most(
    tmp_path: Path, process: ProcessIdentity, words: bytes
) -> None:
    async with machine(tmp_path / "vm-a", process, {"status": "running"}, words) as made:
        states = [await made.state() for _ in range(3)]

    assert VmState.RUNNING in states


async def test_a_flood_of_events_is_read_slowly_and_looked_into_once(tmp_path: Path, process: ProcessIdentity) -> None:
    flood = b'{"event": "STOP", "data": {}}\r\n' * 5_000
    heard: list[str] = []
    life = Life("vm-a", QemuFiles(tmp_path, "qemu"), lambda state: None, lambda life: None)
    loop = asyncio.get_running_loop()

    async with machine(tmp_path / "vm-a", process, {"status": "running"}, flood, heard) as made:
        began_s = loop.time()
        await made.state()
        await until(lambda: len(heard) > 110)
        read, took_s = len(heard), loop.time() - began_s
        for name in heard:
            life._on_event(name, {})
        tasks = len(life._tasks)
        await life.close()

    assert read <= 110 + 100 * took_s
    assert tasks == 1


def void_snapshot(home: Path) -> None:
    home.mkdir()
    (home / OVERLAY).touch()
    SnapshotRecords(home).begin(
        KeptSnapshot(name="s1", tag="s1", taken_ms=0, was_running=True, command=MachineCommand("tcg", []))
    )


async def test_a_tag_of_odd_bytes_in_a_disk_keeps_no_agent_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    void_snapshot(tmp_path / "vm-a")
    tool = tmp_path / "bin" / "qemu-img"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '1 \\377\\376 0 B\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    await snapshot_jobs.clean_at_rest(tmp_path / "vm-a")

    assert SnapshotRecords(tmp_path / "vm-a").voids() == []


@pytest.mark.parametrize("trouble", [ValueError("odd"), KeyError("status"), RecursionError()])
async def test_whatever_one_vm_has_left_is_its_own_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    async def adopt(vm: QemuVm) -> None:
        raise trouble

    def fail(*_: object) -> Callable[..., None]:
        raise trouble

    monkeypatch.setattr(QemuVm, "_adopt", adopt)
    monkeypatch.setattr(SnapshotRecords, "voids", fail)
    monkeypatch.setattr(QemuFiles, "exists", lambda *_: True)
    driver = QemuHypervisor(tmp_path)
    (tmp_path / "vms" / "vm-a").mkdir(parents=True)

    await snapshot_jobs.clean(tmp_path / "vms" / "vm-a", None)
    await driver.attach("vm-a")

    with pytest.raises(HypervisorError):
        await driver.state("vm-a")
