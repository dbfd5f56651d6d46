"""Files of which a job's centre is told while the job runs: how far it is, what it asks for, results that go early.

They are the job's, so nothing of them is believed, nobody waits for one, and the agent touches regular files of the
job's own and no others.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from broker.errors import TransferFailed
from guest_agent import outputs
from guest_agent.directory import Directory
from guest_agent.errors import GuestError
from guest_agent.resources import Store
from schemas.jobs import (
    MOST_OF_ALL_TOLD_BYTES,
    MOST_OF_TOLD_BYTES,
    MOST_TOLD,
    JobAssign,
    OutputEntry,
    ToldFile,
    ToldRef,
)

log = logging.getLogger(__name__)


class ToldFiles:
    """See the module. Belongs to one attempt; ``uid`` is whom its files belong to."""

    def __init__(self, assign: JobAssign, uid: int, store: Store) -> None:
        self._assign, self._uid, self._store = assign, uid, store
        #: Outputs that the centre wanted, and has, as they were then.
        self.stored: list[OutputEntry] = []
        self._on_their_way: set[str] = set()

    def look(self, held: Directory) -> list[ToldFile]:
        """Give those that are there, as they are now."""
        found, room = list[ToldFile](), MOST_OF_ALL_TOLD_BYTES
        for name in self._assign.tells:
            with contextlib.suppress(OSError, GuestError), outputs.opened(held, name, self._uid) as descriptor:
                stat = os.fstat(descriptor)
                length = min(stat.st_size, MOST_OF_TOLD_BYTES, room)
                content = os.pread(descriptor, length, stat.st_size - length)
                room -= len(content)
                found.append(ToldFile(name=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, content=content))
        return found

    def remove(self, held: Directory, ref: ToldRef) -> None:
        """Remove one that has had its effect, unless it is another one by now."""
        if ref.name not in self._assign.tells:
            return
        directory, _, last = ref.name.rpartition("/")
        with contextlib.suppress(OSError, GuestError), held.at(directory) as parent:
            found = os.stat(last, dir_fd=parent.descriptor, follow_symlinks=False)
            if found.st_mtime_ns == ref.mtime_ns:
                os.unlink(last, dir_fd=parent.descriptor)

    async def store(self, held: Directory, ref: ToldRef) -> None:
        """Have the centre have one now. What cannot be is told, and may be wanted again."""
        if ref.name not in self._assign.tells or ref.name in self._on_their_way or len(self.stored) >= MOST_TOLD:
            return
        self._on_their_way.add(ref.name)
        try:
            with outputs.opened(held, ref.name, self._uid) as descriptor:
                entry = await self._store(Path(f"/proc/self/fd/{descriptor}"), ref.name)
            self.stored = [one for one in self.stored if one.name != ref.name] + [entry]
        except (OSError, GuestError, TransferFailed) as error:
            log.warning("output not stored early", extra={"job": self._assign.job, "why": str(error)})
        finally:
            self._on_their_way.discard(ref.name)
