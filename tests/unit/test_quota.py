"""How the staging disk is divided: what is promised, what is left, what goes first, what is refused in which words."""

from __future__ import annotations

import pytest

from adapters.errors import NoStagingRoom, StoreError
from adapters.storage.quota import Staged, StagingBounds, StagingRequest, bounds_of, make_room
from broker.reserve import DiskRoom
from schemas.errors import ErrorCode

GIB = 1 << 30
KIN = {"vm-a": "host-1", "vm-b": "host-1", "vm-c": "host-2", "console-x": "console-x"}
ROOMY = DiskRoom(size=1000 * GIB, free=900 * GIB)
BOUNDS = bounds_of(64 * GIB)


def left(key: str, sender: str = "vm-a", size: int = 10 * GIB, written_s: float = 0.0) -> Staged:
    return Staged(key=key, sender=sender, taken=size, promised=0, written_s=written_s)


def at_work(key: str, sender: str, promised: int, taken: int = 0) -> Staged:
    return Staged(key=key, sender=sender, taken=taken, promised=promised, written_s=0)


def going(
    found: list[Staged], wanted: StagingRequest, disk: DiskRoom = ROOMY, bounds: StagingBounds = BOUNDS
) -> list[str]:
    return [one.key for one in make_room(wanted, found, KIN, bounds, disk)]


def offer(size: int, sender: str = "vm-a", key: str = "new") -> StagingRequest:
    return StagingRequest(key=key, sender=sender, size=size)


def test_what_a_sender_has_left_goes_before_it_may_have_more_the_oldest_first() -> None:
    found = [left("young", size=5 * GIB, written_s=2), left("old", size=5 * GIB, written_s=1)]

    assert going(found, offer(6 * GIB)) == []
    assert going(found, offer(8 * GIB)) == ["old"]
    assert going(found, offer(16 * GIB)) == ["old", "young"]


def test_what_a_transfer_goes_on_with_does_not_go() -> None:
    found = [left("mine", size=16 * GIB), left("other", written_s=9)]

    assert going(found, offer(16 * GIB, key="mine")) == ["other"]


def test_one_file_may_be_as_large_as_it_is_allowed_but_no_second_one_comes_beside_it() -> None:
    assert going([], offer(500 * GIB)) == []
    with pytest.raises(NoStagingRoom, match=rf"unfinished files of vm-a may take {16 * GIB} bytes together"):
        going([at_work("big", "vm-a", 500 * GIB)], offer(1))


def test_vms_of_one_host_share_and_those_of_another_do_not_feel_it() -> None:
    found = [at_work("one", "vm-a", 16 * GIB), at_work("two", "vm-a", 10 * GIB)]

    words = rf"{7 * GIB} bytes of vm-b.*all of host-1.*{26 * GIB} are on their way.*staging_mib"
    with pytest.raises(NoStagingRoom, match=words):
        going(found, offer(7 * GIB, "vm-b"))
    assert going(found, offer(7 * GIB, "vm-c")) == []


def test_what_all_have_left_is_bounded_too() -> None:
    found = [left(f"{n}", "console-x" if n % 2 else "vm-c", size=8 * GIB, written_s=n) for n in range(6)]

    assert going(found, offer(1)) == ["0", "1"]


def test_a_disk_takes_what_was_promised_and_keeps_its_reserve() -> None:
    disk = DiskRoom(size=100 * GIB, free=20 * GIB)
    found = [at_work("half", "vm-c", 10 * GIB, taken=4 * GIB)]

    assert going(found, offer(13 * GIB), disk) == []
    with pytest.raises(NoStagingRoom) as caught:
        going(found, offer(14 * GIB), disk)
    for word in (14 * GIB, 20 * GIB, 512 << 20, 6 * GIB, "free some space there, or offer it again later"):
        assert str(word) in str(caught.value)


def test_a_disk_that_has_no_room_even_when_all_others_are_there_is_full_and_not_only_taken() -> None:
    """For what others take somebody waits as long as it lasts, for an operator who frees some space not for ever."""
    disk = DiskRoom(size=100 * GIB, free=10 * GIB)
    found = [at_work("other", "vm-c", 10 * GIB, taken=8 * GIB)]

    with pytest.raises(NoStagingRoom) as passing:
        going(found, offer(17 * GIB), disk)
    with pytest.raises(StoreError) as full:
        going(found, offer(18 * GIB), disk)
    with pytest.raises(StoreError) as alone:
        going([], offer(10 * GIB), disk)

    codes = [passing.value.code, full.value.code, alone.value.code]
    assert codes == [ErrorCode.NO_ROOM, ErrorCode.STORE, ErrorCode.STORE]


def test_for_a_disk_that_is_short_of_room_what_is_left_goes_the_oldest_first_whose_ever_it_is() -> None:
    disk = DiskRoom(size=100 * GIB, free=10 * GIB)
    found = [left("c", "vm-c", 4 * GIB, 3), left("b", "vm-b", 4 * GIB, 1), left("x", "console-x", 4 * GIB, 2)]

    assert going(found, offer(9 * GIB), disk) == []
    assert going(found, offer(15 * GIB), disk) == ["b", "x"]


def test_a_small_disk_keeps_a_part_of_it() -> None:
    assert DiskRoom(size=GIB, free=GIB).reserve == GIB // 32
    assert DiskRoom(size=GIB, free=10).usable == 0
