"""Our image in QEMU, seen from inside: what the guest finds, whom it reaches, which seed it is given when."""

from __future__ import annotations

import asyncio
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from qemu.qmp import QMPClient

from deploy.image.build import Request, build
from host_agent.hypervisors.contract import ImageFiles
from host_agent.images import ImageStore
from tests.contract.conftest import seeds_of, snapshots_of

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "guest-image"
#: Under emulation, with other tests beside it.
PATIENCE_S = 240.0


class Broker:
    """Listens where the guests' broker should be, and speaks with the probe in the guest."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        if self._server is not None:
            self._server.close()

    async def hear(self, key: str, value: object = None) -> Any:
        """Wait until the guest says ``key`` (with ``value``, if one is given)."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                said = await self.said.get()
                if key in said and value in (None, said[key]):
                    return said[key]

    async def ask(self, key: str, value: object) -> Any:
        self.writers[-1].write(json.dumps({key: value}).encode() + b"\n")
        return await self.hear(key)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while line := await reader.readline():
            self.said.put_nowait(json.loads(line))


@pytest.fixture(scope="session")
def probe_image(guest_image: ImageFiles, tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """Our image with the probe in place of the guest agent."""
    wheel = tmp_path_factory.mktemp("wheel") / "probe.whl"
    agent = HERE.parents[1] / "guest_agent"
    files = {"main": HERE / "probe_agent.py", "seed": agent / "seed.py", "seed_port": agent / "seed_port.py"}
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo("guest_agent/__init__.py"), "")
        for name, source in files.items():
            archive.writestr(zipfile.ZipInfo(f"guest_agent/{name}.py"), source.read_bytes())
    manifest = build(Request(output=tmp_path_factory.mktemp("probe"), cache=CACHE, wheels=(wheel,)))
    store = ImageStore(tmp_path_factory.mktemp("images"), None)
    return store.resolve(store.add(manifest))


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    made = Broker()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def driver(qemu_rig, probe_image, broker):
    """A driver with one VM that runs the probe, which has connected and told its first seed."""
    opened = await qemu_rig.open()
    plain = qemu_rig.spec("vm-a")
    await opened.create(
        msgspec.structs.replace(plain, image=probe_image, broker=qemu_rig.broker_at(broker.port), disk_mib=3000)
    )
    began = time.monotonic()
    await opened.start("vm-a", b"first")
    assert await broker.hear("seed") == "first"
    print(f"boot to agent: {time.monotonic() - began:.2f} s")
    return opened


async def test_the_guest_finds_what_agent_and_payloads_need(driver, broker):
    found = await broker.ask("look", True)

    assert found["modules"] == ["ctypes", "ssl", "zipfile", "msgpack", "msgspec", "pika"]
    assert found["libstdcxx"]
    assert {"root", "job0", "job15"} <= set(found["users"])
    assert found["disk_mib"] > 2500


async def test_the_guest_reaches_its_broker_and_nothing_else(driver, broker):
    # 10.0.2.2 is the host, 10.0.2.3 the name server of QEMU's user networking.
    elsewhere = [("10.0.2.2", broker.port), ("10.0.2.3", 53), ("10.0.2.100", 22), ("127.0.0.1", broker.port)]

    reached = [await broker.ask("reach", address) for address in [*elsewhere, ("10.0.2.100", 5672)]]

    assert "reached" not in reached[:-1]
    assert reached[-1] == "reached"


async def test_a_connection_that_breaks_is_made_again(driver, broker):
    broker.writers[-1].close()

    assert await broker.hear("seed") == "first"
    assert len(broker.writers) == 2


async def test_a_seed_that_is_offered_reaches_the_guest_that_runs(driver, broker):
    await seeds_of(driver).offer("vm-a", b"second")

    assert await broker.hear("seed") == "second"


async def test_after_a_reset_the_guest_finds_the_new_seed_first(driver, broker):
    await driver.reset("vm-a", b"second")

    assert await broker.hear("seed") == "second"


async def test_a_restored_guest_goes_on_and_hears_its_new_seed(driver, broker):
    before = await broker.ask("look", True)
    await snapshots_of(driver).savestate("vm-a")
    began = time.monotonic()
    await driver.start("vm-a", b"a longer seed than the first one")

    assert await broker.hear("seed", "a longer seed than the first one")
    print(f"start from saved to agent: {time.monotonic() - began:.2f} s")
    assert (await broker.ask("look", True))["pid"] == before["pid"]


async def test_the_next_host_agent_hands_in_seeds_too(driver, broker, qemu_rig):
    await driver.close()
    second = await qemu_rig.open()
    await seeds_of(second).offer("vm-a", b"from the second")

    assert await broker.hear("seed", "from the second")


async def test_an_agent_that_is_killed_comes_back(driver, broker):
    pid = (await broker.ask("look", True))["pid"]
    broker.writers[-1].write(json.dumps({"shell": f"kill -9 {pid}"}).encode() + b"\n")

    await broker.hear("seed", "first")

    assert (await broker.ask("look", True))["pid"] != pid


@pytest.mark.parametrize(("command", "state"), [("poweroff", "poweredoff"), ("reboot", "aborted")])
async def test_a_guest_that_ends_by_itself_is_news(driver, broker, qemu_rig, eventually, command, state):
    broker.writers[-1].write(json.dumps({"shell": command}).encode() + b"\n")

    await eventually(lambda: qemu_rig.told, 30.0)

    assert qemu_rig.told == [("vm-a", state)]
    assert await driver.state("vm-a") == state
    assert qemu_rig.processes("vm-a") == set()


async def test_a_guest_that_powered_off_while_no_agent_watched_is_powered_off(driver, broker, qemu_rig, eventually):
    await driver.close()
    broker.writers[-1].write(json.dumps({"shell": "poweroff"}).encode() + b"\n")
    await shut_down(qemu_rig.directory / "vms/vm-a")

    second = await qemu_rig.open()
    await eventually(lambda: qemu_rig.processes("vm-a") == set(), 30.0)

    assert await second.state("vm-a") == "poweredoff"


async def shut_down(home: Path) -> None:
    """Wait, as a stranger to the driver, until a guest has shut down and QEMU stands still."""
    descriptor = os.open(home, os.O_PATH)
    qmp = QMPClient()
    await qmp.connect(f"/proc/self/fd/{descriptor}/qmp.sock")
    async with asyncio.timeout(PATIENCE_S):
        while (await qmp.execute("query-status"))["status"] != "shutdown":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await qmp.disconnect()
    os.close(descriptor)


async def test_poweroff_wins_over_a_stop_that_waits(driver, qemu_rig):
    await driver.pause("vm-a")
    await driver.resume("vm-a")
    stopping = asyncio.ensure_future(driver.stop("vm-a", 60.0))

    await driver.poweroff("vm-a")
    await stopping

    assert await driver.state("vm-a") == "poweredoff"
    assert qemu_rig.told == []
