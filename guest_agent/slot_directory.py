"""What the payloads of one job slot have of the disk: a directory for each attempt, and scratch space that looks empty.

``work`` holds the attempts' directories, ``tmp`` and ``var-tmp`` what payloads see as /tmp and /var/tmp. All three are
the agent's; what is in them is whatever payloads like. Blocking; holds no descriptor between calls.
"""

from __future__ import annotations

import os
from pathlib import Path

from guest_agent import tree
from guest_agent.accounts import Account
from guest_agent.directory import Directory
from guest_agent.quota import DiskAmount
from guest_agent.spares import Spares

#: Where payloads see the scratch directories, if they have a view of their own.
SCRATCH = {"tmp": "/tmp", "var-tmp": "/var/tmp"}
#: Mode of the directory of attempts: to be passed through by who knows a name in it, not listed.
PASS = 0o711
#: Mode of scratch directories: everybody may write, nobody remove what is another's.
OPEN = 0o1777


class SlotDirectory:
    """The directories of one slot."""

    def __init__(self, path: Path, account: Account | None) -> None:
        self.path = path
        self.work = path / "work"
        self.account = account
        for place, mode in ((path, PASS), (self.work, PASS), *((path / name, OPEN) for name in SCRATCH)):
            place.mkdir(exist_ok=True)
            place.chmod(mode)
        self._ways = {name: self._way_through(place) for name, place in SCRATCH.items()}
        self._looks = [(str(path / name), way) for name, way in self._ways.items()]
        self._streams = path / "streams"
        self._spares = Spares(path / "spare")

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group of what is a payload's own."""
        return (self.account.uid, self.account.gid) if self.account is not None else None

    @property
    def uid(self) -> int:
        """User to whom a payload's files belong."""
        return self.account.uid if self.account is not None else os.geteuid()

    def scratch(self) -> list[tuple[str, str]]:
        """List the scratch directories with the places where payloads see them."""
        return [(str(self.path / name), place) for name, place in SCRATCH.items() if Path(place).is_dir()]

    def make(self, name: str, array: str = "") -> Directory:
        """Make an attempt's directory, fresh and the payload's own, and hold it. What had its name goes first.

        One that an attempt of the same ``array`` has left as it was made is as good.
        """
        if array and self._spares.take(self.work / name, array):
            return self._hand_over(Directory(self.work / name))
        with Directory(self.work) as work:
            return work.make(name, owner=self.owner, anew=True)

    def _hand_over(self, held: Directory) -> Directory:
        """Let the next payload in."""
        if self.owner is not None:
            os.fchown(held.descriptor, *self.owner)
        return held

    def take_back(self, held: Directory) -> None:
        """Let no payload in any more, whatever this one allowed: the next one in the slot has the same account, and who
        runs in another slot may know the name."""
        if self.account is not None:
            os.fchown(held.descriptor, os.geteuid(), os.getegid())
            os.fchmod(held.descriptor, 0o700)

    def is_as_made(self, held: Directory) -> bool:
        """Say whether an attempt that has ended, whose directory was taken back, left it as it had been made."""
        return self.account is not None and self._spares.is_fit(held)

    def remove(self, name: str, array: str = "") -> None:
        """Remove an attempt's directory, whatever it holds. One that is as it was made is kept for its ``array``."""
        if array and self._spares.keep(self.work / name, array):
            return
        with Directory(self.work) as work:
            work.remove(name)

    def streams(self, name: str) -> Path:
        """Where streams of an attempt go that are not small; no payload comes there."""
        return self._streams / name

    def used(self, held: Directory) -> DiskAmount:
        """Measure what an attempt has on the disk. Blocking, longer the more files there are."""
        total = tree.used(held)
        for name in SCRATCH:
            with Directory(self.path / name) as scratch:
                more = tree.used(scratch)
            total = DiskAmount(total.bytes + more.bytes, total.files + more.files)
        return total

    def is_clear(self) -> bool:
        """Say whether scratch space is as the next payload shall find it."""
        for path, way in self._looks:
            with os.scandir(path) as entries:
                if not way.issuperset(entry.name for entry in entries):
                    return False
        return True

    def renew_scratch(self, aside: Path) -> None:
        """Have other scratch directories, where the old ones could not be cleared: they are moved ``aside``."""
        for name in SCRATCH:
            (self.path / name).rename(aside / os.urandom(12).hex())
            (self.path / name).mkdir()
            (self.path / name).chmod(OPEN)

    def clear_scratch(self) -> None:
        """Empty what payloads see as /tmp and /var/tmp, but for the way to their own directory if it leads there."""
        for name, way in self._ways.items():
            with Directory(self.path / name) as scratch:
                scratch.empty(spare=way)

    def _way_through(self, place: str) -> frozenset[str]:
        work = self.work.resolve()
        return frozenset({work.relative_to(place).parts[0]}) if work.is_relative_to(place) else frozenset()
