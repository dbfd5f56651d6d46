"""Who may have how much of the staging disk, and what goes to make room: pure.

What is on its way counts by what was promised, what broke off by what it takes. Nobody waits for what broke off: it
goes, the oldest first, whenever its sender, the group of that or the disk have no room for what somebody offers now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from adapters.errors import NoStagingRoom, StoreError
from broker.reserve import DiskRoom


class StagingBounds(Struct, frozen=True, kw_only=True):
    """What may be on the staging disk, bytes."""

    #: Of one sender, unless it is a single file.
    of_one: int
    #: Of the senders of one accounting group, unless it is a single file.
    of_group: int
    #: What broke off, of all.
    left: int


class Staged(Struct, frozen=True, kw_only=True):
    """All that one transfer has on the staging disk."""

    key: str
    sender: str
    taken: int
    #: What it may come to, or, of one that waits, what is there; 0 = nobody is at work on it, or waits.
    promised: int
    written_s: float

    @property
    def counted(self) -> int:
        """What it counts for."""
        return max(self.taken, self.promised)


class StagingRequest(Struct, frozen=True, kw_only=True):
    """What somebody offers."""

    key: str
    sender: str
    size: int


def bounds_of(most_bytes: int) -> StagingBounds:
    """Divide what shares are measured by."""
    return StagingBounds(of_one=most_bytes // 4, of_group=most_bytes // 2, left=most_bytes // 2)


def make_room(
    wanted: StagingRequest, found: Sequence[Staged], groups: Mapping[str, str], bounds: StagingBounds, disk: DiskRoom
) -> list[Staged]:
    """Name what has to go so that a file can come, the oldest first. ``groups`` names each sender's.

    Raises NoStagingRoom, and StoreError where it has no room even when the others on their way are there."""
    others = [one for one in found if one.key != wanted.key]
    at_work = [one for one in others if one.promised]
    left = sorted((one for one in others if not one.promised), key=lambda one: one.written_s)
    own, theirs = wanted.sender, groups[wanted.sender]
    going: list[Staged] = []
    shares: list[tuple[str, int, Callable[[Staged], bool]]] = [
        (own, bounds.of_one, lambda one: one.sender == own),
        (f"all of {theirs}", bounds.of_group, lambda one: groups[one.sender] == theirs),
    ]
    for who, most, is_theirs in shares:
        promised = sum(one.counted for one in at_work if is_theirs(one))
        if promised and promised + wanted.size > most:
            raise NoStagingRoom(_over_share(wanted, who, most, promised))
        kept = [one for one in left if is_theirs(one) and one not in going]
        going += _oldest(kept, sum(one.counted for one in kept) + promised + wanted.size - most)
    kept = [one for one in left if one not in going]
    going += _oldest(kept, sum(one.counted for one in kept) - bounds.left)
    return going + _for_the_disk(wanted, found, [one for one in kept if one not in going], going, disk)


def _for_the_disk(
    wanted: StagingRequest, found: Sequence[Staged], left: Sequence[Staged], going: Sequence[Staged], disk: DiskRoom
) -> list[Staged]:
    """Name what else must go for a disk that has to take all that was promised."""
    taken = sum(one.taken for one in found if one.key == wanted.key)
    promised = sum(max(0, one.promised - one.taken) for one in found if one.key != wanted.key)
    missing = max(0, wanted.size - taken) + promised - disk.usable - sum(one.taken for one in going)
    if missing > (may_go := sum(one.taken for one in left)):
        passing = sum(one.counted for one in found if one.key != wanted.key and one.promised)
        kind = NoStagingRoom if missing - passing <= may_go else StoreError
        text = f"no room for {wanted.size} bytes of {wanted.sender} in the staging directory: {disk.told()}"
        raise kind(f"{text}, and {promised} are promised to others; free some space there, or offer it again later")
    return _oldest(left, missing)


def _oldest(left: Sequence[Staged], too_many: int) -> list[Staged]:
    chosen: list[Staged] = []
    for one in left:
        if too_many <= 0:
            break
        chosen.append(one)
        too_many -= one.taken
    return chosen


def _over_share(wanted: StagingRequest, who: str, most: int, promised: int) -> str:
    text = f"no room for {wanted.size} bytes of {wanted.sender}: unfinished files of {who} may take {most} bytes"
    return f"{text} together and {promised} are on their way; it has room when those are there, or by more staging_mib"
