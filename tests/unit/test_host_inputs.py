"""A host and its guest, each as it is, over a real local road: who is served what, and what else becomes of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from broker.errors import TransferFailed
from broker.memory import MemoryCarrier
from broker.outbound import deliver
from broker.road import Road
from broker.road.streams import Listener
from broker.routes import up
from broker.transfer.landing import Open
from guest_agent import host_inputs as guest_side
from guest_agent.host_inputs import InputsFromHost
from host_agent.guests import Guests
from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.inputs import serving
from host_agent.inputs.inputs import HostInputs
from schemas.errors import ErrorCode
from schemas.inputs import InputOutcome, InputTaken, InputWait, InputWant
from tests.broker.polling import until
from tests.unit.test_guests import OneSocket

HOST, VM = "host-a", "vm-a-0123456789"
CONTENT = b"content" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Centre:
    """What the centre would say and give."""

    def __init__(self) -> None:
        self.contents = {SHA256: CONTENT}
        self.rights = {(VM, SHA256)}
        self.asked: list[tuple[str, str]] = []
        self.fetched: list[str] = []

    async def demand_right(self, vm: str, sha256: str) -> None:
        self.asked.append((vm, sha256))
        if (vm, sha256) not in self.rights:
            raise TransferFailed(ErrorCode.FORBIDDEN, f"{vm} holds no attempt of a job that names it")

    async def fetch(self, sha256: str, vm: str, land: Open, progress: Callable[[int], None]) -> None:
        self.fetched.append(sha256)
        content = self.contents[sha256]
        landing = await asyncio.to_thread(land, len(content))
        landing.write([content])
        landing.commit(sha256)
        landing.close()

    async def consume(self) -> None:
        pass


class World:
    """One host with the medium of the driver ``process``, and one guest."""

    def __init__(self, directory: Path, **bounds: int) -> None:
        self.directory, self.centre = directory, Centre()
        self.driver = ProcessHypervisor(directory / "vms")
        socket = directory / "road.sock"
        self.driver.capabilities = msgspec.structs.replace(self.driver.capabilities, roads=OneSocket(socket))
        self.listener = Listener(socket)
        self.bounds = {"limit_bytes": 1 << 20, "spare_bytes": 0, **bounds}
        self.guests = Guests(self.driver, HOST)
        self.inputs = self._new_inputs()
        self.road = Road(self.listener.connect, user=VM, peer=HOST, is_ours=True)
        self.from_host = InputsFromHost(self.state)
        self.target = directory / "target"

    def _new_inputs(self) -> HostInputs:
        made = HostInputs(self.directory / "inputs", self.driver, MemoryCarrier(HOST), HOST, **self.bounds)
        made._centre = self.centre  # type: ignore[assignment]
        made._fetches._fetch = self.centre.fetch
        return made

    @property
    def state(self) -> Path:
        return self.directory / "vms" / VM / "state"

    @property
    def shown(self) -> list[Path]:
        """What lies in the guest's medium."""
        try:
            return list((self.state / "host-inputs").iterdir())
        except FileNotFoundError:  # the directory goes with what lay in it
            return []

    async def fetch(self, sha256: str = SHA256) -> bool:
        async with asyncio.timeout(60):
            return await self.from_host.fetch(sha256, self.target)


@asynccontextmanager
async def met(directory: Path, *, serves: bool = True, **bounds: int) -> AsyncIterator[World]:
    world = World(directory, **bounds)
    await world.driver.open(lambda vm, state: None)
    await world.driver.create(VmSpec(id=VM, name="w", cpus=1, memory_mib=64, disk_mib=1024, image=None, broker=""))
    if serves:
        await world.inputs.open()
        world.guests.inputs = world.inputs.guests
    await world.from_host.meet(world.road)
    world.road.start()
    await world.guests.look({VM})
    await until(lambda: world.road.is_up)
    try:
        yield world
    finally:
        await world.inputs.close()
        await world.guests.close()
        await world.road.close()
        await world.listener.close()
        await world.driver.close()


async def test_a_guest_has_from_its_host_what_that_fetched_once(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        both = [await world.fetch(), await world.fetch()]

        assert both == [True, True]
        assert world.target.read_bytes() == CONTENT
        assert (world.centre.fetched, len(world.centre.asked)) == ([SHA256], 2)
        await until(lambda: not world.shown)
        await until(lambda: (facts := world.inputs.facts()) is not None and facts.served == 2)
        facts = world.inputs.facts()
        assert facts is not None
        assert (facts.hits, facts.fetches, facts.files) == (1, 1, 1)
        assert (facts.fetched_bytes, facts.served_bytes) == (len(CONTENT), 2 * len(CONTENT))


async def test_who_has_no_right_has_nothing_though_the_host_has_the_bytes(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        await world.fetch()
        world.target.unlink()
        world.centre.rights.clear()

        assert not await world.fetch()

        assert not world.target.exists()
        assert world.centre.fetched == [SHA256]


async def test_a_damaged_file_is_found_and_fetched_again(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        await world.fetch()
        world.target.unlink()
        (kept,) = (tmp_path / "inputs").glob(f"{SHA256}.*")
        kept.write_bytes(CONTENT.replace(b"c", b"x", 1))

        assert await world.fetch()

        assert world.target.read_bytes() == CONTENT
        assert world.centre.fetched == [SHA256] * 2


async def test_a_file_that_was_damaged_before_its_host_began_is_never_shown(tmp_path: Path) -> None:
    directory = tmp_path / "inputs"
    directory.mkdir()
    (directory / f"{SHA256}.{len(CONTENT)}").write_bytes(CONTENT.replace(b"c", b"x", 1))
    async with met(tmp_path) as world:
        assert await world.fetch()

        assert world.target.read_bytes() == CONTENT
        assert world.centre.fetched == [SHA256]


async def test_a_guest_that_calls_a_sound_file_damaged_costs_no_fetch(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        world.from_host._take = lambda *_: InputOutcome.DAMAGED

        assert not await world.fetch()

        assert world.centre.fetched == [SHA256]
        await until(lambda: not world.shown)


async def test_a_guest_that_calls_everything_damaged_is_heeded_a_few_times(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        shown = 0

        def doubt(*_: object) -> InputOutcome:
            nonlocal shown
            shown += 1
            return InputOutcome.DAMAGED

        world.from_host._take = doubt
        for _ in range(6):
            assert not await world.fetch()

        assert shown <= serving.DOUBTS + 6
        assert world.centre.fetched == [SHA256]


async def test_a_full_disk_at_the_host_sends_the_guest_to_the_centre(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with met(tmp_path, limit_bytes=10) as world:
        assert not await world.fetch()

    assert "input not served" in caplog.text
    assert not world.target.exists()


@pytest.mark.parametrize("serves", [False])
async def test_a_host_that_knows_no_inputs_is_asked_once_and_not_again(tmp_path: Path, serves: bool) -> None:
    """An older host agent has no reader for the question, and so has one that keeps no inputs."""
    async with met(tmp_path, serves=serves) as world:
        first = await world.fetch()
        world.road.send = lambda *_, **__: pytest.fail("it is asked again")  # type: ignore[assignment]

        assert (first, await world.fetch()) == (False, False)


async def test_a_host_that_is_silent_is_left_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_side, "SILENT_S", 0.3)
    async with met(tmp_path) as world:

        async def never(want: InputWant) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(serving.GuestInputs, "_serve", lambda self, want: never(want))

        assert not await world.fetch()


async def test_a_host_to_which_nothing_comes_is_left_though_it_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_side, "STALLED_S", 0.5)
    monkeypatch.setattr(serving, "SAY_S", 0.05)
    async with met(tmp_path) as world:
        said: list[InputWait] = []
        on_message = world.from_host._on_message
        world.from_host._on_message = lambda message: (said.append(message), on_message(message))[1]  # type: ignore

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        world.inputs._fetches._fetch = never

        assert not await world.fetch()
        assert len(said) > 3


async def test_a_guest_that_is_not_there_any_more_is_shown_nothing(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        world.from_host._on_message = lambda message: None  # type: ignore[method-assign]
        await deliver(world.road, up(VM, "input"), InputWant(sha256=SHA256))
        await until(lambda: world.shown)

        await world.guests.look(set())

        await until(lambda: not world.shown)


async def test_what_a_killed_host_agent_left_in_the_medium_goes_when_the_next_meets_the_guest(tmp_path: Path) -> None:
    left = tmp_path / "vms" / VM / "state" / "host-inputs"

    async with met(tmp_path) as world:
        await world.guests.look(set())
        await until(lambda: not len(world.inputs.guests._clearing))
        left.mkdir(exist_ok=True)
        (left / "of-another").write_bytes(b"x")
        assert world.shown

        await world.guests.look({VM})

        await until(lambda: not world.shown)


async def test_a_flood_of_wants_is_refused_and_costs_the_centre_little(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        for _ in range(90):
            await deliver(world.road, up(VM, "input"), InputWant(sha256="0" * 64))

        await until(lambda: (facts := world.inputs.facts()) is not None and facts.refused == 90)
        assert len(world.centre.asked) <= serving.WANTS


async def test_a_word_on_a_want_that_there_is_not_is_an_offence_and_nothing_else(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        await deliver(
            world.road, up(VM, "input"), InputTaken(want=InputWant(sha256=SHA256).id, outcome=InputOutcome.READ)
        )

        assert await world.fetch()


async def test_a_guest_that_no_longer_waits_ends_the_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_side, "STALLED_S", 0.2)
    async with met(tmp_path) as world:
        given_up = asyncio.Event()

        async def never(*_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()

        world.inputs._fetches._fetch = never

        assert not await world.fetch()
        async with asyncio.timeout(30):
            await given_up.wait()


async def test_two_wants_of_one_name_are_one(tmp_path: Path) -> None:
    """And what is shown for a want of which the guest's agent knows nothing, it gives back at once."""
    async with met(tmp_path) as world:
        want = InputWant(sha256=SHA256)
        for _ in range(2):
            await deliver(world.road, up(VM, "input"), want)

        await until(lambda: (facts := world.inputs.facts()) is not None and facts.refused == 1)
        assert len(world.centre.asked) == 1
        assert await world.fetch()
