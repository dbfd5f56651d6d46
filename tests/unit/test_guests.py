"""What a guest tells its host is believed of itself, within bounds, and costs its host and the centre little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from broker.delivery import Delivery
from broker.errors import Disconnected, Unroutable
from broker.memory import MemoryCarrier
from broker.outbound import body_of, deliver
from broker.road import Road
from broker.road.streams import Listener
from broker.routes import down, queue_of, up
from broker.rpc import Journal, Responder, ServerClock
from host_agent import guests as guests_module
from host_agent.guests import Guests
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from schemas.codec import decode, encode
from schemas.envelope import Ping, ServerTime
from schemas.errors import DecodeError
from schemas.ids import Kind
from schemas.road import Say
from schemas.vms import MOST_OF_A_JOB, GuestFacts, GuestReport, HostFacts, HostInventory, VmPause, VmState, VmStatus
from tests.broker.polling import until

VM, HOST = "vm-a-0123456789", "host-a"


class OneRoad(FakeHypervisor):
    """A hypervisor whose VMs all have their end of the road in one place."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self.capabilities = msgspec.structs.replace(self.capabilities, roads=OneSocket(socket))


class OneSocket:
    """Those ends of the road."""

    guest_end = "socket:road.sock"

    def __init__(self, path: Path) -> None:
        self.path = path

    def socket(self, vm: str) -> Path:
        return self.path


class World:
    """A host's guests, and the one guest that there is."""

    def __init__(self, directory: Path) -> None:
        self.changes = 0
        self.listener = Listener(directory / "road.sock")
        self.guests = Guests(OneRoad(directory / "road.sock"), HOST)
        self.guests.on_change = self.count
        self.guest = Road(self.listener.connect, user=VM, peer=HOST, is_ours=True)

    def count(self) -> None:
        self.changes += 1

    async def report(self, holding: int = 0) -> None:
        await deliver(self.guest, up(VM, "report"), GuestReport(guest=facts(holding=holding)))


def facts(holding: int = 0) -> GuestFacts:
    return GuestFacts(cpus=1, memory_mib=700, holding=holding)


@asynccontextmanager
async def met(directory: Path) -> AsyncIterator[World]:
    world = World(directory)
    world.guest.start()
    await world.guests.look({VM})
    try:
        async with asyncio.timeout(15):
            await world.guest.wait_up()
        yield world
    finally:
        await world.guests.close()
        await world.guest.close()
        await world.listener.close()


async def test_the_host_has_its_guests_word_until_the_guest_goes(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        await world.report(holding=3)
        known = world.guests.facts(VM)
        await world.guests.look((), unknown={VM})
        still = world.guests.facts(VM)
        await world.guests.look(())

        assert known == still == facts(holding=3)
        assert world.guests.facts(VM) is None


async def test_however_often_a_guest_changes_its_word_the_centre_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests_module, "CHANGE_S", 0.2)
    monkeypatch.setattr(guests_module, "LEAST_BETWEEN_S", 0.0)
    async with met(tmp_path) as world:
        began = time.monotonic()
        for number in range(300):
            await world.report(holding=number % 2)
        await until(lambda: world.changes)

        assert world.changes <= (time.monotonic() - began) / 0.2 + 1


async def test_a_guest_that_reports_without_end_is_cut_off(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        talking = asyncio.ensure_future(_for_ever(world))
        await until(lambda: world.guests._guests[VM].road.breaches)
        talking.cancel()

        assert "a flood: reports" in world.guests._guests[VM].road.trouble


async def _for_ever(world: World) -> None:
    while True:
        await world.report()


async def test_a_guest_that_takes_no_word_on_the_time_is_not_sent_one_more_each_time(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        came: list[Delivery] = []
        await world.guest.consume(queue_of(VM), came.append)  # and settles nothing
        for number in range(5):
            world.guests._guests[VM].at = 0.0
            await world.report(holding=number)
        await until(lambda: came)

        assert len(came) == 1
        assert all(isinstance(decode(one.body), ServerTime) for one in came)


async def test_a_vm_that_goes_on_hears_what_time_it_is_now_before_it_is_told_to_run(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        came: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            came.append(delivery)
            delivery.ack()

        await world.guest.consume(queue_of(VM), take)
        before_ms = time.time() * 1000

        await world.guests.back(VM, False)

        word = decode(came[-1].body)
        assert isinstance(word, ServerTime)
        assert word.server_time_ms >= before_ms - 1


async def test_a_word_on_the_time_that_came_late_is_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests_module, "PROMPT_S", 0.2)
    async with met(tmp_path) as world:
        came: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            came.append(delivery)
            asyncio.get_running_loop().call_later(0.0 if len(came) > 1 else 0.4, delivery.ack)

        await world.guest.consume(queue_of(VM), take)

        await world.guests.back(VM, False)

        words = [word for one in came if isinstance(word := decode(one.body), ServerTime)]
        assert len(words) == len(came) >= 2
        assert words[-1].server_time_ms >= words[0].server_time_ms + 200


async def test_a_vm_that_is_another_process_now_is_met_anew(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        await world.guest.consume(queue_of(VM), lambda delivery: delivery.ack())
        await world.guests.look(())

        await world.guests.back(VM, False)

        assert world.guest.is_up
        assert world.guest.links >= 2


async def test_a_new_generation_hears_the_time_too_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async with met(tmp_path) as world:
        came: list[Delivery] = []
        await world.guest.consume(queue_of(VM), came.append)

        async with asyncio.timeout(15):
            await world.guests.back(VM, True)
        await until(lambda: came)

        assert isinstance(decode(came[-1].body), ServerTime)


async def test_a_vm_without_an_agent_of_ours_is_not_waited_for_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests_module, "BACK_S", 0.2)
    guests = Guests(OneRoad(tmp_path / "nobody.sock"), HOST)
    async with asyncio.timeout(15):
        await guests.back(VM, False)
        await guests.close()


async def test_what_is_passed_on_to_a_guest_that_says_nothing_is_given_up_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests_module, "TAKE_S", 0.2)
    async with met(tmp_path) as world:
        await world.guest.consume(queue_of(VM), lambda delivery: None)
        said = Say(number=1, exchange="vc.down", key=down(VM).key, message_id="m", body=body_of(Ping()))

        with pytest.raises(Disconnected, match=f"the agent in {VM} took it and says nothing"):
            await world.guests.pass_on(VM, said)
        with pytest.raises(Unroutable, match="vm-b does not run on this host"):
            await world.guests.pass_on("vm-b", said)


def test_a_word_of_a_guest_leaves_room_for_a_host_full_of_them() -> None:
    with pytest.raises(DecodeError):
        decode(encode(GuestReport(guest=GuestFacts(cpus=1, memory_mib=1, jobs=["x" * (MOST_OF_A_JOB + 1)]))))
    worst = GuestFacts(cpus=1 << 50, memory_mib=1 << 50, jobs=["x" * MOST_OF_A_JOB] * 16)
    vm = VmStatus(
        vm=VM,
        name="n" * 42,
        state=VmState.RUNNING,
        generation=1,
        hypervisor="qemu",
        cpus=1,
        memory_mib=1,
        disk_mib=1,
        guest=worst,
    )
    host = HostFacts(hostname="h", platform="p", cpus=1, memory_mib=1, free_disk_mib=1, hypervisor="qemu")

    encode(HostInventory(host=host, vms=[vm] * 256, at_ms=1))


async def test_of_one_journal_each_way_answers_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.open()
    for sender in ("console-a", HOST):
        await journal.accept(f"of-{sender}", sender, encode(VmPause(vm="vm-1", id=f"of-{sender}", reply="abc")))
    await journal.close()  # as a killed agent leaves it
    journal = Journal(tmp_path / "journal")
    journal.open()
    by_broker, by_road = MemoryCarrier(VM), MemoryCarrier(VM)
    first = Responder(by_broker, journal, {}, clock=ServerClock())
    second = Responder(by_road, journal, {}, clock=ServerClock())
    first.recover(lambda kind: kind is not Kind.HOST)
    second.recover(lambda kind: kind is Kind.HOST)
    await until(lambda: by_broker.sent and by_road.sent)
    await first.close()
    await second.close()
    await journal.close()

    assert [key for _, key, _ in by_broker.sent] == [f"{VM}.reply.console-a-abc"]
    assert [key for _, key, _ in by_road.sent] == [f"{VM}.reply.{HOST}-abc"]
