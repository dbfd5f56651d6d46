"""The disk of a guest as its jobs may use it: each is promised a part when it begins, and nothing is promised twice.

What runs has a claim to what it was promised and has not used yet; only what is free beyond that can be promised to the
next. The kernel keeps a job to its promise where it counts by account, else the job is looked at. Blocking.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from broker import reserve
from guest_agent.accounts import Account
from guest_agent.cache import InputCache
from guest_agent.quota import DiskAmount, Quota

#: Of the disk, this is not for payloads, beside the reserve which is not for files that come in either: the agent's
#: streams, what is in flight. Bytes.
RESERVE_BYTES = 64 << 20
#: Files and directories that a job may have; and of those that the disk has room for, how many are not for payloads.
MOST_FILES, RESERVE_FILES = 100_000, 2_000
#: A disk with less than this left of what a job may use is full to it, bytes.
FULL_BYTES = 64 << 10


class _Claim(Struct, frozen=True):
    """What a job that runs was promised, and by whose account it is counted, if by any."""

    promised: DiskAmount
    uid: int | None


class Disk:
    """See the module. Several slots may call at once."""

    def __init__(
        self, directory: Path, cache: InputCache, quota: Quota | None = None, accounts: Sequence[Account | None] = ()
    ) -> None:
        """``directory`` is where jobs lie; ``accounts`` are those that they have, one for each slot, if any."""
        self._directory = directory
        self._cache = cache
        self._quota = quota
        self._uids = [account.uid for account in accounts if account is not None]
        self._slots = max(len(accounts), 1)
        disk = os.statvfs(directory)
        self._files_each = MOST_FILES
        if disk.f_files:  # a file system without a fixed number of files says 0
            self._files_each = min(MOST_FILES, max(disk.f_favail - RESERVE_FILES, 0) // self._slots)
        self._lock = threading.Lock()
        #: Of what runs, by the directory of its slot; and what it was last seen to have, where no kernel counts.
        self._claims: dict[Path, _Claim] = {}
        self._seen: dict[Path, DiskAmount] = {}
        #: What there was for jobs when none ran last, bytes.
        self._idle_bytes = 0

    @property
    def counts_by_account(self) -> bool:
        """The kernel keeps each account to its limit."""
        return self._quota is not None

    def offered_bytes(self) -> int:
        """Give what all jobs together may have, whatever they have of it now.

        Where no kernel counts what is theirs, that is what was free when none ran last: of a disk that is others' too,
        and changes all the time, so it is told coarsely, for machines that are alike to look alike.
        """
        disk = os.statvfs(self._directory)
        free = _free_bytes(disk) + self._cache.reclaimable_bytes() - _kept_bytes(disk)
        if self._quota is not None:
            return max(free + sum(self._quota.used(uid).bytes for uid in self._uids), 0)
        with self._lock:
            if not (self._claims and self._idle_bytes):
                self._idle_bytes = max(free, 0)
            return _coarse(self._idle_bytes)

    def is_short(self, wanted_bytes: int) -> bool:
        """Whether it matters to a job that wants so much what those before it have not removed yet. Quick."""
        # Where nobody counts a job wants its share of what is free when none runs, which it never is.
        disk = os.statvfs(self._directory)
        return _free_bytes(disk) < _kept_bytes(disk) + (wanted_bytes if self._quota is not None else 0)

    def begin(self, slot: Path, account: Account | None, wanted_bytes: int) -> DiskAmount:
        """Promise a slot's next job what it wants, or what there is; 0 = what there is. Raises OSError."""
        with self._lock:
            self._forget(slot)
            there = self._there(self._make_room(wanted_bytes))
            size = min(wanted_bytes, self._at_most(there.bytes)) if wanted_bytes else there.bytes // self._idle
            promised = DiskAmount(max(size, 1), max(min(self._files_each, there.files), 1))
            uid = account.uid if self._quota is not None and account is not None else None
            if self._quota is not None and uid is not None:
                self._quota.limit(uid, promised)
            self._claims[slot] = _Claim(promised, uid)
            return promised

    def end(self, slot: Path) -> None:
        """Let go of what a slot's job was promised. Idempotent."""
        with self._lock:
            self._forget(slot)

    def note_used(self, slot: Path, used: DiskAmount) -> None:
        """Take to the books what a slot's job was seen to have."""
        with self._lock:
            self._seen[slot] = used

    def left(self, account: Account | None) -> DiskAmount | None:
        """Give what an account may still take; None where nobody counts. Raises OSError."""
        return None if self._quota is None or account is None else self._quota.left(account.uid)

    def _at_most(self, there_bytes: int) -> int:
        """Give what the next job may be promised. What was offered the ledger has divided; where others have taken of
        that since then, each slot that is idle keeps its part of what there is."""
        promised = sum(claim.promised.bytes for claim in self._claims.values())
        if self._quota is not None or there_bytes + promised >= _coarse(self._idle_bytes):
            return there_bytes
        return there_bytes // self._idle

    @property
    def _idle(self) -> int:
        """How many slots, the one that asks among them, have no promise."""
        return max(self._slots - len(self._claims), 1)

    def _forget(self, slot: Path) -> None:
        self._claims.pop(slot, None)
        self._seen.pop(slot, None)

    def _there(self, disk: os.statvfs_result) -> DiskAmount:
        """Give what is free and nobody's."""
        claimed = self._claimed()
        # A file system without a fixed number of files says 0 of 0.
        free_files = disk.f_favail - RESERVE_FILES if disk.f_files else claimed.files + MOST_FILES
        return DiskAmount(_free_bytes(disk) - _kept_bytes(disk) - claimed.bytes, free_files - claimed.files)

    def _claimed(self) -> DiskAmount:
        """Give what those that run have not taken yet of what they were promised."""
        left = [self._left_of(slot, claim) for slot, claim in self._claims.items()]
        return DiskAmount(sum(max(one.bytes, 0) for one in left), sum(max(one.files, 0) for one in left))

    def _left_of(self, slot: Path, claim: _Claim) -> DiskAmount:
        if self._quota is not None and claim.uid is not None:
            return self._quota.left(claim.uid)
        seen = self._seen.get(slot, DiskAmount())
        return DiskAmount(claim.promised.bytes - seen.bytes, claim.promised.files - seen.files)

    def _make_room(self, wanted_bytes: int) -> os.statvfs_result:
        """Let the cache go as far as that gives a job all that it wants; else, as for a job that may have its share of
        the whole disk, until half of what is not the system's is free. Give how the disk is then."""
        disk = os.statvfs(self._directory)
        free = _free_bytes(disk)
        needed = wanted_bytes + self._claimed().bytes + _kept_bytes(disk)
        if free < needed:
            usable = free + self._cache.reclaimable_bytes()
            needed = needed if usable >= needed else usable // 2
        if free >= needed:
            return disk
        self._cache.make_room(needed)
        return os.statvfs(self._directory)


def _coarse(amount: int) -> int:
    """Round down to four binary digits: by an eighth at most."""
    step = 1 << max(amount.bit_length() - 4, 0)
    return amount // step * step


def _free_bytes(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


def _kept_bytes(disk: os.statvfs_result) -> int:
    room = reserve.DiskRoom(size=disk.f_blocks * disk.f_frsize, free=_free_bytes(disk))
    return RESERVE_BYTES + room.reserve
