"""Places that are few: whoever fills them, somebody new gets one."""

from __future__ import annotations

import asyncio

from broker.memory import MemoryCarrier
from broker.transfer import Transfers
from broker.transfer.desk import Desk
from broker.transfer.places import ASKER_GONE_S, TURN_S, Places, Room, Visit
from schemas.files import FileGet, GuestFile
from tests.broker.polling import until

ROOM = Room(at_work=4, at_work_of_one=2, at_work_of_kin=4, known=12, known_of_one=6, known_of_kin=12)


async def nothing() -> None:
    pass


def visit(transfer: str, sender: str, kin: str = "", asked_s: float = 0.0) -> Visit:
    return Visit(transfer=transfer, sender=sender, kin=kin or sender, asked_s=asked_s, serve=nothing)


def begin_all(places: Places, now_s: float = 0.0) -> list[str]:
    begun = []
    while (one := places.begin_next(now_s)) is not None:
        begun.append(one.transfer)
    return begun


def test_the_next_place_is_for_who_has_the_fewest() -> None:
    places = Places(ROOM)
    for number in range(3):
        places.enter(visit(f"a{number}", "vm-a", "host-1"), 0)
    places.enter(visit("b0", "vm-b", "host-1"), 0)
    places.enter(visit("c0", "vm-c", "host-2"), 0)

    assert begin_all(places) == ["a0", "c0", "b0", "a1"]


def test_where_all_places_are_taken_who_has_the_most_gives_way_to_who_has_none() -> None:
    places = Places(ROOM)
    for number in range(4):
        places.enter(visit(f"a{number}", f"vm-a{number}", "host-1"), 0)
    begin_all(places)
    places.enter(visit("c0", "vm-c", "host-2"), 1)

    assert places.give_way(TURN_S - 1) is None, "everybody has its turn"
    giving = places.give_way(TURN_S)
    assert giving is not None
    assert places.give_way(TURN_S) is None, "one is enough"
    places.put_back(giving, TURN_S)

    assert giving.transfer == "a0"
    assert begin_all(places, TURN_S) == ["c0"]
    assert places.give_way(2 * TURN_S) is None, "who waits has others of its kin at work"


def test_who_is_about_to_leave_does_not_give_way() -> None:
    places = Places(ROOM)
    for number in range(4):
        places.enter(visit(f"a{number}", f"vm-a{number}", "host-1"), 0)
    begin_all(places)
    places.enter(visit("c0", "vm-c", "host-2"), TURN_S)

    assert places.give_way(TURN_S, lambda _: True) is None
    giving = places.give_way(TURN_S, lambda transfer: transfer == "a0")

    assert giving is not None
    assert giving.transfer == "a1"


def test_what_is_known_is_never_all_of_one_hosts_vms() -> None:
    """28 VMs with 36 openings each once were all that an adapter knew, and everybody else was told to wait for ever."""
    places = Places(ROOM)
    for vm in range(2):
        for number in range(6):
            assert places.enter(visit(f"{vm}.{number}", f"vm-{vm}", "host-1"), 0)
    assert len(places) == ROOM.known

    assert places.enter(visit("new", "vm-new", "host-2"), 1)

    assert len(places) == ROOM.known
    assert places.get("1.5") is None, "the last that came waits outside"
    assert not places.enter(visit("more", "vm-2", "host-1"), 1)
    assert places.enter(visit("late", "vm-2", "host-1"), ASKER_GONE_S + 1), "those that stopped asking are gone"


def test_whose_kin_a_sender_is_may_become_known_while_it_waits() -> None:
    places = Places(ROOM)
    one = visit("a", "vm-a", "not known")
    places.enter(one, 0)
    places.enter(visit("a2", "vm-a", "not known"), 0)
    assert begin_all(places)[:1] == ["a"]
    places.recognise("vm-a", "host-1")
    places.enter(visit("b", "vm-b", "host-1"), 4)
    places.enter(visit("c", "vm-c", "host-2"), 4)

    assert begin_all(places, 4) == ["c", "b"]
    for known in places.all():
        places.leave(known)
    assert len(places) == 0


async def test_a_transfer_that_gave_its_place_up_is_served_again() -> None:
    now = [0.0]
    room = Room(at_work=2, at_work_of_one=2, at_work_of_kin=2, known=9, known_of_one=9, known_of_kin=9)
    desk = Desk(Transfers(MemoryCarrier("vm-a")), room, kin_of=lambda one: one, clock=lambda: now[0])
    begun: list[str] = []
    may_end = asyncio.Event()

    async def work(name: str) -> None:
        begun.append(name)
        await may_end.wait()

    gets = {name: FileGet(file=GuestFile(path=name)) for name in ("a0", "a1", "b0")}
    for name in ("a0", "a1"):
        desk.open("console-a", gets[name], lambda name=name: work(name))
    await until(lambda: len(begun) == 2)
    now[0] = TURN_S
    desk.open("console-b", gets["b0"], lambda: work("b0"))
    await until(lambda: begun == ["a0", "a1", "b0"])
    may_end.set()
    await until(lambda: not desk.known)

    assert begun == ["a0", "a1", "b0", "a0"]
    await desk.close()
