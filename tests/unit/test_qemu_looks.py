"""Looks at a QEMU that hangs, and at VMs whose files are on a disk that does: they end in time, the loop goes on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import Statistics
from host_agent.hypervisors.process.files import ProcessFiles
from host_agent.hypervisors.process.ports import ProcessStatistics
from host_agent.hypervisors.qemu import screenshots
from host_agent.hypervisors.qemu.command import DEVICES_NOW, QMP_SOCKET
from host_agent.hypervisors.qemu.files import QemuFiles, note_devices
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.screenshots import QemuScreenshots
from host_agent.hypervisors.qemu.statistics import QemuStatistics
from host_agent.questions import LOOK_S
from tests.broker.polling import until

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


class Qmp:
    """The monitor of a QEMU that is at a screen for ever, and does nothing else before that is drawn."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.goes_on = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        # Nothing stands between two orders, and with a descriptor comes a blank.
        while data := await reader.read(4096):
            if not data.strip():
                continue
            order = json.loads(data)
            self.asked.append(order["execute"])
            if order["execute"] == "screendump":
                await self.goes_on.wait()
            named = {"id": order["id"]} if "id" in order else {}
            writer.write(json.dumps({"return": {}} | named).encode() + b"\r\n")
        writer.close()


@pytest.fixture
async def qmp(tmp_path: Path) -> AsyncIterator[Qmp]:
    (tmp_path / "vm-a").mkdir()
    made = Qmp()
    server = await asyncio.start_unix_server(made.serve, tmp_path / "vm-a" / QMP_SOCKET)
    yield made
    made.goes_on.set()
    server.close()


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A file of a VM's on a disk that answers after a long while only."""
    (tmp_path / "vm-a").mkdir()
    file = tmp_path / "vm-a" / "process.json"
    os.mkfifo(file)
    with subprocess.Popen(["sh", "-c", 'while sleep 10; do : > "$0"; done', str(file)]) as disk:
        yield file
        disk.kill()


@pytest.fixture
def process() -> Iterator[ProcessIdentity]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield ProcessIdentity.of(started.pid)
        started.kill()


async def test_a_screen_that_is_never_drawn_is_told_in_time_with_what_to_do(
    tmp_path: Path, qmp: Qmp, process: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert screenshots.DRAW_S < LOOK_S
    monkeypatch.setattr(screenshots, "DRAW_S", 1.0)
    files = QemuFiles(tmp_path, "qemu")
    note_devices(tmp_path / "vm-a", DEVICES_NOW)
    machine = QemuMachine(tmp_path / "vm-a", process, lambda event, data: None, lambda: None)
    await machine.monitor.wait_connected(30)
    running = SimpleNamespace(running=lambda: SimpleNamespace(machine=machine))
    looks = QemuScreenshots(lambda vm: cast(Any, running), files)
    began_s = asyncio.get_running_loop().time()

    with pytest.raises(HypervisorError, match=r"has not drawn the screen.*`volcloud vm poweroff vm-a` ends it"):
        await looks.take("vm-a")
    took_s = asyncio.get_running_loop().time() - began_s
    qmp.goes_on.set()

    await until(lambda: qmp.asked[-1] == "remove-fd")
    assert took_s < 6, "it waits for what QEMU does after the screen"
    await machine.close()


@pytest.mark.parametrize("driver", ["qemu", "process"])
async def test_a_disk_that_hangs_under_a_vms_files_holds_up_no_other(tmp_path: Path, hung: Path, driver: str) -> None:
    statistics: Statistics = ProcessStatistics(ProcessFiles(tmp_path, driver))
    if driver == "qemu":
        statistics = QemuStatistics(lambda vm: cast(Any, None), QemuFiles(tmp_path, driver))
    asked = [asyncio.ensure_future(one) for one in (statistics.of("vm-a"), statistics.counters("vm-a"))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert not any(one.done() for one in asked), "the loop stood still until the disk answered"
    while not all(one.done() for one in asked):
        await _let_go(hung)
    assert all(isinstance(one.exception(), HypervisorError) for one in asked)


async def _let_go(hung: Path) -> None:
    """Let whoever waits for a FIFO read that it is empty; nobody may wait yet."""
    try:
        os.close(os.open(hung, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        await asyncio.sleep(0)
