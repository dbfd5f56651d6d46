"""The staging directory: files on their way in and out, by sender, and the room that each was promised.

Several adapters of a machine share it. What one promises it writes into a claim beside the file, locked for as long as
it is at work, so that all count alike, and what a killed one had promised is free again. A claim comes before its owner
looks at what there is: of two that come at once, each sees the other. How much is whose is ``quota``'s to judge.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from pathlib import Path

from msgspec import structs

from adapters.storage import quota
from adapters.storage.quota import Staged, StagingBounds, StagingRequest
from broker import durable, reserve
from broker.errors import PartialTaken
from broker.transfer.landing import MARK, PART
from broker.transfer.leftovers import remove_left_behind, remove_unheld
from broker.transfer.locks import lock
from broker.transfer.threads import in_thread

log = logging.getLogger(__name__)

#: Age at which a file that nobody holds is nobody's any more, seconds.
LEFT_BEHIND_S = 86400.0
#: Files of transfers that broke off, kept at most.
MOST_LEFT_BEHIND = 1000
#: End of the name of a claim.
_CLAIM = ".claim"
#: Of which transfer a file is: ``key.rest``, where a key names its sender.
_NAME = re.compile(r"(?P<key>(in|out)-(?P<sender>[a-z0-9-]+)\.[0-9a-f]{40})\.\S+")


class StagingPlace:
    """Where the files of one transfer go."""

    def __init__(self, directory: Path, key: str) -> None:
        self.partial = directory / f"{key}{PART}"
        #: A name of this call's own, for the whole file.
        self.whole = directory / f"{key}.{secrets.token_hex(8)}"


class _Claim:
    """What was promised to one transfer; others see it from ``take`` to ``drop``."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._file = -1

    def take(self) -> None:
        fresh = self._path.with_suffix(".new")
        self._file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, durable.PRIVATE)
        lock(self._file)
        durable.write_all(self._file, b"%d" % self._size)
        fresh.rename(self._path)

    def drop(self) -> None:
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".new").unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


class Staging:
    """See the module. ``group_of`` says to which accounting group a sender belongs, by one name for all of them."""

    def __init__(
        self,
        directory: Path,
        group_of: Callable[[str], Awaitable[str]],
        *,
        most_bytes: int = 0,
        waiting: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """``waiting`` gives the keys of what waits to go on (see ``key_of``): it counts, and is not left behind.
        ``most_bytes`` is what shares are measured by, see ``quota``; 0 = half of the disk."""
        self._directory, self._group_of, self._waiting = directory, group_of, waiting
        durable.make_directory(directory)
        self._bounds = quota.bounds_of(most_bytes or reserve.look(directory).size // 2)

    @property
    def bounds(self) -> StagingBounds:
        """What may be there."""
        return self._bounds

    @contextlib.asynccontextmanager
    async def room_for(self, sender: str, name: str, size: int, *, way: str = "in") -> AsyncIterator[StagingPlace]:
        """Promise room for a file, as long as the block lasts. ``name``: 40 digits that are this transfer's alone.

        Raises NoStagingRoom, with the number and what to do, before anything is there.
        """
        wanted = StagingRequest(key=key_of(sender, name, way), sender=sender, size=size)
        claim = _Claim(self._directory / f"{wanted.key}.{secrets.token_hex(8)}{_CLAIM}", size)
        try:
            await in_thread(claim.take)
            found = self._with_waiting(await in_thread(self.look))
            groups = {one: await self._group_of(one) for one in {sender, *(staged.sender for staged in found)}}
            disk = reserve.look(self._directory)
            going = quota.make_room(wanted, found, groups, self._bounds, disk)
            await in_thread(self._remove, going)
            yield StagingPlace(self._directory, wanted.key)
        finally:
            await in_thread(claim.drop)

    def _with_waiting(self, found: list[Staged]) -> list[Staged]:
        """Tell what waits from what broke off: who gave way goes on where it got to."""
        if all(one.promised for one in found):
            return found
        waiting = self._waiting()
        return [
            structs.replace(one, promised=max(1, one.taken)) if not one.promised and one.key in waiting else one
            for one in found
        ]

    def look(self) -> list[Staged]:
        """Say what is there, by transfer. Blocking."""
        files: defaultdict[tuple[str, str], list[os.DirEntry[str]]] = defaultdict(list)
        with os.scandir(self._directory) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is not None:
                    files[match["key"], match["sender"]].append(entry)
        return [_staged(key, sender, some) for (key, sender), some in files.items()]

    def remove_left_behind(self, waiting: Collection[str] = frozenset()) -> None:
        """Remove what transfers that broke off, and killed adapters, have left. Blocking.

        Not everything of one that is at work is held: a copy on its way out is not. Its claim came before its files, so
        that whatever is seen to be there has been claimed by the time of the look."""
        there = [*self._directory.iterdir()]
        at_work = {one.key for one in self.look() if one.promised or one.key in waiting}
        removed = remove_left_behind(
            [path for path in there if not ((match := _NAME.fullmatch(path.name)) and match["key"] in at_work)],
            now_s=time.time(),
            keep_s=LEFT_BEHIND_S,
            most=MOST_LEFT_BEHIND,
            most_bytes=self._bounds.left,
        )
        for path in removed:
            log.info("left behind, removed", extra={"path": path.name})

    def _remove(self, going: Iterable[Staged]) -> None:
        for one in going:
            log.info("left behind, removed for what comes", extra={"path": one.key, "size": one.taken})
            for path in self._directory.glob(f"{one.key}.*"):
                remove_unheld(path)


def key_of(sender: str, name: str, way: str = "in") -> str:
    """Name all that one transfer has there. ``name``: 40 digits that are its alone."""
    return f"{way}-{sender}.{name}"


def _staged(key: str, sender: str, files: Iterable[os.DirEntry[str]]) -> Staged:
    promised, taken, written_s = 0, 0, 0.0
    for entry in files:
        if entry.name.endswith(_CLAIM):
            promised = max(promised, _promised(Path(entry.path)))
            continue
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            if not entry.name.endswith(MARK):
                taken += found.st_blocks * 512
                written_s = max(written_s, found.st_mtime)
    return Staged(key=key, sender=sender, taken=taken, promised=promised, written_s=written_s)


def _promised(claim: Path) -> int:
    """Read a claim; one that nobody holds is a killed adapter's, and goes. One of no bytes counts all the same."""
    try:
        file = os.open(claim, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        lock(file)
        claim.unlink(missing_ok=True)
        return 0
    except PartialTaken:
        return max(1, int(os.read(file, 32) or b"0"))
    finally:
        os.close(file)
