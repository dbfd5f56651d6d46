"""Places that are few: whoever fills them, somebody new gets one."""

from __future__ import annotations

import asyncio

from broker.memory import MemoryCarrier
from broker.transfer import Transfers
from broker.transfer.scheduler import ASKER_GONE_S, TURN_S, Scheduler, TransferLimits, TransferRequest
from broker.transfer.transfer_queue import TransferQueue
from schemas.files import FileGet, GuestFile
from tests.broker.polling import until

LIMITS = TransferLimits(at_work=4, at_work_of_one=2, at_work_of_kin=4, known=12, known_of_one=6, known_of_kin=12)


async def nothing() -> None:
    pass


def request(transfer: str, sender: str, kin: str = "", asked_s: float = 0.0) -> TransferRequest:
    return TransferRequest(transfer=transfer, sender=sender, kin=kin or sender, asked_s=asked_s, serve=nothing)


def begin_all(scheduler: Scheduler, now_s: float = 0.0) -> list[str]:
    begun = []
    while (one := scheduler.begin_next(now_s)) is not None:
        begun.append(one.transfer)
    return begun


def test_the_next_place_is_for_who_has_the_fewest() -> None:
    scheduler = Scheduler(LIMITS)
    for number in range(3):
        scheduler.enter(request(f"a{number}", "vm-a", "host-1"), 0)
    scheduler.enter(request("b0", "vm-b", "host-1"), 0)
    scheduler.enter(request("c0", "vm-c", "host-2"), 0)

    assert begin_all(scheduler) == ["a0", "c0", "b0", "a1"]


def test_where_all_places_are_taken_who_has_the_most_gives_way_to_who_has_none() -> None:
    scheduler = Scheduler(LIMITS)
    for number in range(4):
        scheduler.enter(request(f"a{number}", f"vm-a{number}", "host-1"), 0)
    begin_all(scheduler)
    scheduler.enter(request("c0", "vm-c", "host-2"), 1)

    assert scheduler.preempt(TURN_S - 1) is None, "everybody has its turn"
    giving = scheduler.preempt(TURN_S)
    assert giving is not None
    assert scheduler.preempt(TURN_S) is None, "one is enough"
    scheduler.requeue(giving, TURN_S)

    assert giving.transfer == "a0"
    assert begin_all(scheduler, TURN_S) == ["c0"]
    assert scheduler.preempt(2 * TURN_S) is None, "who waits has others of its kin at work"


def test_who_is_about_to_leave_does_not_preempt() -> None:
    scheduler = Scheduler(LIMITS)
    for number in range(4):
        scheduler.enter(request(f"a{number}", f"vm-a{number}", "host-1"), 0)
    begin_all(scheduler)
    scheduler.enter(request("c0", "vm-c", "host-2"), TURN_S)

    assert scheduler.preempt(TURN_S, lambda _: True) is None
    giving = scheduler.preempt(TURN_S, lambda transfer: transfer == "a0")

    assert giving is not None
    assert giving.transfer == "a1"


def test_what_is_known_is_never_all_of_one_hosts_vms() -> None:
    """28 VMs with 36 openings each once were all that an adapter knew, and everybody else was told to wait for ever."""
    scheduler = Scheduler(LIMITS)
    for vm in range(2):
        for number in range(6):
            assert scheduler.enter(request(f"{vm}.{number}", f"vm-{vm}", "host-1"), 0)
    assert len(scheduler) == LIMITS.known

    assert scheduler.enter(request("new", "vm-new", "host-2"), 1)

    assert len(scheduler) == LIMITS.known
    assert scheduler.get("1.5") is None, "the last that came waits outside"
    assert not scheduler.enter(request("more", "vm-2", "host-1"), 1)
    assert scheduler.enter(request("late", "vm-2", "host-1"), ASKER_GONE_S + 1), "those that stopped asking are gone"


def test_whose_kin_a_sender_is_may_become_known_while_it_waits() -> None:
    scheduler = Scheduler(LIMITS)
    one = request("a", "vm-a", "not known")
    scheduler.enter(one, 0)
    scheduler.enter(request("a2", "vm-a", "not known"), 0)
    assert begin_all(scheduler)[:1] == ["a"]
    scheduler.recognise("vm-a", "host-1")
    scheduler.enter(request("b", "vm-b", "host-1"), 4)
    scheduler.enter(request("c", "vm-c", "host-2"), 4)

    assert begin_all(scheduler, 4) == ["c", "b"]
    for known in scheduler.all():
        scheduler.leave(known)
    assert len(scheduler) == 0


async def test_a_transfer_that_gave_its_place_up_is_served_again() -> None:
    now = [0.0]
    limits = TransferLimits(at_work=2, at_work_of_one=2, at_work_of_kin=2, known=9, known_of_one=9, known_of_kin=9)
    queue = TransferQueue(Transfers(MemoryCarrier("vm-a")), limits, kin_of=lambda one: one, clock=lambda: now[0])
    begun: list[str] = []
    may_end = asyncio.Event()

    async def work(name: str) -> None:
        begun.append(name)
        await may_end.wait()

    gets = {name: FileGet(file=GuestFile(path=name)) for name in ("a0", "a1", "b0")}
    for name in ("a0", "a1"):
        queue.open("console-a", gets[name], lambda name=name: work(name))
    await until(lambda: len(begun) == 2)
    now[0] = TURN_S
    queue.open("console-b", gets["b0"], lambda: work("b0"))
    await until(lambda: begun == ["a0", "a1", "b0"])
    may_end.set()
    await until(lambda: not queue.known)

    assert begun == ["a0", "a1", "b0", "a0"]
    await queue.close()
