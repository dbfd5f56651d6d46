"""Files of which a job's centre is told while the job runs: how far it is, what it asks for, results that go early.

They are the job's, so nothing of them is believed, nobody waits for one, and the agent touches regular files of the
job's own and no others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from broker import durable
from broker.errors import TransferFailed
from guest_agent import outputs
from guest_agent.directory import Directory
from guest_agent.errors import BadPath, GuestError
from guest_agent.resources import Store
from schemas.jobs import (
    MOST_OF_ALL_TOLD_BYTES,
    MOST_OF_TOLD_BYTES,
    MOST_TOLD,
    HandedFile,
    JobAssign,
    OutputEntry,
    ToldFile,
    ToldRef,
)

log = logging.getLogger(__name__)


class FileWishes(NamedTuple):
    """What a centre wants of a job's files."""

    removes: Sequence[ToldRef] = ()
    wants: Sequence[ToldRef] = ()
    hands: Sequence[HandedFile] = ()

    def of(self, job: str, attempt: int) -> FileWishes:
        """Give those that are about one attempt."""
        key = job, attempt
        return FileWishes(
            [one for one in self.removes if (one.job, one.attempt) == key],
            [one for one in self.wants if (one.job, one.attempt) == key],
            [one for one in self.hands if (one.job, one.attempt) == key],
        )


class ToldFiles:
    """See the module. Belongs to one attempt; ``uid`` is whom its files belong to."""

    def __init__(self, assign: JobAssign, uid: int, store: Store) -> None:
        self._assign, self._uid, self._store = assign, uid, store
        #: Outputs that the centre wanted and has, by name, with the time at which each was written.
        self._stored: dict[str, tuple[OutputEntry, int]] = {}
        self._times: dict[str, int] = {}
        self._on_their_way: set[str] = set()
        #: Files that the job was handed while it ran, the last ones.
        self.handed: list[str] = []

    def look(self, held: Directory) -> list[ToldFile]:
        """Give those that are there, as they are now."""
        self._times = {}
        found, room = list[ToldFile](), MOST_OF_ALL_TOLD_BYTES
        for name in self._assign.tells:
            with contextlib.suppress(OSError, GuestError), self._opened(held, name) as descriptor:
                stat = os.fstat(descriptor)
                if not _can_be_told(stat):
                    continue
                length = min(stat.st_size, MOST_OF_TOLD_BYTES, room)
                content = os.pread(descriptor, length, stat.st_size - length)
                room -= len(content)
                self._times[name] = stat.st_mtime_ns
                found.append(ToldFile(name=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, content=content))
        return found

    @property
    def stored(self) -> list[OutputEntry]:
        """Outputs that the centre wanted, and has as they are by now."""
        return [entry for name, (entry, written) in self._stored.items() if self._times.get(name) == written]

    @contextlib.contextmanager
    def _opened(self, held: Directory, name: str) -> Iterator[int]:
        """Open one that is no link, and behind none: what is told of is what is removed."""
        directory, _, last = name.rpartition("/")
        with held.at(directory) as parent:
            if stat_module.S_ISLNK(os.stat(last, dir_fd=parent.descriptor, follow_symlinks=False).st_mode):
                raise BadPath(f"{name}: is a link")
            with outputs.opened(parent, last, self._uid) as descriptor:
                yield descriptor

    def remove(self, held: Directory, ref: ToldRef) -> None:
        """Remove one that has had its effect, unless it is another one by now."""
        if ref.name not in self._assign.tells:
            return
        directory, _, last = ref.name.rpartition("/")
        with contextlib.suppress(OSError, GuestError), held.at(directory) as parent:
            found = os.stat(last, dir_fd=parent.descriptor, follow_symlinks=False)
            if found.st_mtime_ns == ref.mtime_ns:
                os.unlink(last, dir_fd=parent.descriptor)

    def put(self, held: Directory, file: HandedFile, owner: tuple[int, int] | None) -> None:
        """Have a file stand in the job's directory, once. What cannot be put there is told, and tried when it comes
        again."""
        if file.name in self.handed:
            return
        try:
            here, last = held.make_way(file.name, owner=owner)
            with here:
                _put_whole(here, last, file.content, owner)
            self.handed = [*self.handed, file.name][-MOST_TOLD:]
        except (OSError, GuestError) as error:
            log.warning("file not handed to the job", extra={"job": self._assign.job, "why": str(error)})

    async def store(self, held: Directory, ref: ToldRef) -> None:
        """Have the centre have one as it is now. What cannot be is told, and may be wanted again."""
        if ref.name not in self._assign.tells or ref.name in self._on_their_way:
            return
        self._on_their_way.add(ref.name)
        try:
            with self._opened(held, ref.name) as descriptor:
                written = os.fstat(descriptor).st_mtime_ns
                entry = await self._store(Path(f"/proc/self/fd/{descriptor}"), ref.name)
            self._stored[ref.name] = entry, written
        except (OSError, GuestError, TransferFailed) as error:
            log.warning("output not stored early", extra={"job": self._assign.job, "why": str(error)})
        finally:
            self._on_their_way.discard(ref.name)


def _can_be_told(found: os.stat_result) -> bool:
    """Whether the wire takes a file's numbers: whose it is decides them."""
    try:
        msgspec.convert({"name": "", "size": found.st_size, "mtime_ns": found.st_mtime_ns}, ToldFile)
    except msgspec.ValidationError:
        return False
    return True


def _put_whole(here: Directory, name: str, content: bytes, owner: tuple[int, int] | None) -> None:
    """Have a file appear with all that is in it; one that is there stays. Raises OSError: then there is none."""
    beside = f".{name[:100]}.vc"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=here.descriptor)
    descriptor = here.create(beside, owner=owner, mode=0o644)
    try:
        durable.write_all(descriptor, content)
        with contextlib.suppress(FileExistsError):
            os.link(beside, name, src_dir_fd=here.descriptor, dst_dir_fd=here.descriptor, follow_symlinks=False)
    finally:
        os.close(descriptor)
        os.unlink(beside, dir_fd=here.descriptor)
