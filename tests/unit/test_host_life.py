"""Random lives of a host: verbs, crashes, full disks, agents killed; in the end each VM is as it was wished."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from broker import durable
from broker.errors import BrokerError
from host_agent import keeper as keeper_module
from host_agent.errors import HostError
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.hypervisors.fake.ports import FakeSnapshots
from host_agent.vm import Verb, Wish
from schemas.vms import VmCreate, VmState
from tests.contract.conftest import eventually
from tests.unit.test_keeper import Kept

STEPS = 60
VERBS = (Verb.START, Verb.STOP, Verb.PAUSE, Verb.RESUME, Verb.RESET, Verb.POWEROFF, Verb.SAVESTATE, Verb.DISCARD)
WISHED = {Wish.RUNNING: VmState.RUNNING, Wish.PAUSED: VmState.PAUSED}


class Slow(FakeHypervisor):
    """Acts take a while, so that they meet; in the midst of one the VM may die."""

    def __init__(self, host: FakeHypervisor | None, dice: random.Random) -> None:
        super().__init__(host.host if host else None)
        self.dice = dice
        self.capabilities = msgspec.structs.replace(self.capabilities, snapshots=SlowSnapshots(self))

    async def start(self, vm: str, seed: bytes) -> None:
        await self.takes_a_while()
        await super().start(vm, seed)

    async def stop(self, vm: str, timeout_s: float) -> None:
        await self.takes_a_while()
        await super().stop(vm, timeout_s)

    async def takes_a_while(self) -> None:
        await asyncio.sleep(self.dice.random() / 500)


class SlowSnapshots(FakeSnapshots):
    """Saves take a while too."""

    def __init__(self, driver: Slow) -> None:
        super().__init__(driver.host)
        self.driver = driver

    async def savestate(self, vm: str) -> None:
        await self.driver.takes_a_while()
        if self.driver.dice.random() < 0.2:
            self.driver.crash(vm)
            raise HostError("it was lost while it was saved")
        await super().savestate(vm)


class Life:
    """A host, what was asked of it, and what happens to it."""

    def __init__(self, directory: Path, dice: random.Random, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.dice, self._patch = directory, dice, patch
        self.host: Kept | None = None
        self.asked: set[asyncio.Task[object]] = set()

    @property
    def kept(self) -> Kept:
        assert self.host is not None
        return self.host

    async def begin(self) -> None:
        """A new agent, after the old one was killed in the midst of whatever it did."""
        if self.host is not None:
            for task in self.asked:
                task.cancel()
            await asyncio.gather(*self.asked, return_exceptions=True)
            await self.host.keeper.close()
        before = self.host.hypervisor if self.host else None
        self.host = await Kept(self.directory, Slow(before, self.dice)).open()
        for name in ("worker-1", "worker-2"):
            await self.host.control.create(VmCreate(name=name, autostart=True), wish=Wish.RUNNING)
        self.host.keeper.keep_all()

    async def step(self) -> None:
        match self.dice.randrange(6):
            case 0:
                await self.begin()
            case 1 | 2:
                self.crash_one()
            case 3:
                await self.full_disk()
            case _:
                task = asyncio.ensure_future(self.ask())
                self.asked.add(task)
                task.add_done_callback(self.asked.discard)
        await asyncio.sleep(self.dice.random() / 300)

    async def ask(self) -> None:
        vm, verb = self.any_vm(), self.dice.choice(VERBS)
        self.kept.keeper.forgive(vm)
        try:
            await self.kept.control.act(verb, vm)
        except (HostError, BrokerError):
            return

    def crash_one(self) -> None:
        vm = self.any_vm()
        hypervisor = self.kept.hypervisor
        if hypervisor.host.vms[vm].pid is not None:
            hypervisor.crash(vm)

    async def full_disk(self) -> None:
        with self._patch.context() as patch:
            patch.setattr(durable, "replace", _no_room)
            await asyncio.sleep(self.dice.random() / 100)

    def any_vm(self) -> str:
        return self.dice.choice(self.kept.registry.all()).vm

    async def is_as_wished(self) -> bool:
        for record in self.kept.registry.all():
            state = await self.kept.hypervisor.state(record.vm)
            if record.wish is Wish.OFF:
                if state in (VmState.RUNNING, VmState.PAUSED):
                    return False
            elif state is not WISHED[record.wish] and not (record.wish is Wish.PAUSED and state is VmState.ABORTED):
                return False
        return True


def _no_room(path: Path, *_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_each_vm_ends_as_it_was_wished(tmp_path: Path, monkeypatch, seed: int) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_WAIT_S", 0.0002)
    monkeypatch.setattr(keeper_module, "MOST_WAIT_S", 0.01)
    monkeypatch.setattr(keeper_module, "MOST_STARTS", 10_000)
    life = Life(tmp_path, random.Random(seed), monkeypatch)
    await life.begin()

    for _ in range(STEPS):
        await life.step()
    await asyncio.gather(*life.asked, return_exceptions=True)
    await eventually(lambda: not life.kept.keeper.at_work)

    assert await life.is_as_wished(), [
        (record.wish, await life.kept.hypervisor.state(record.vm)) for record in life.kept.registry.all()
    ]
    assert await life.kept.hypervisor.list() == [record.vm for record in life.kept.registry.all()]
    assert life.kept.aside.ids() == []
