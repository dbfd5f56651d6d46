"""What an attempt hands out: small outputs and streams ride in its completion, the others go to the store.

``collect`` decides which, while the directory is held; what is left then survives a restart of the agent, by name, on
the disk, and ``store_left`` sends it, also in the agent that comes after.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker import durable
from broker.backoff import backoff
from broker.errors import TransferFailed
from guest_agent import outputs, tree
from guest_agent.attempt_journal import Conclusion
from guest_agent.cache import digest_of
from guest_agent.directory import Directory
from guest_agent.errors import AttemptFailed, PathEscapes
from guest_agent.resources import Resources, Store
from guest_agent.slot_directory import SlotDirectory
from guest_agent.streams import CappedFile
from schemas.errors import ErrorCode
from schemas.jobs import MAX_INLINE_OUTPUT_BYTES, JobAssign, JobCompletion, Outcome, OutputEntry

log = logging.getLogger(__name__)

#: Refusals of a store that is full or away, and of one that has others to serve first: the same again will be taken.
_WAITED_FOR = frozenset({ErrorCode.NO_ROOM, ErrorCode.STORE, ErrorCode.TIMEOUT})


class StageOut:
    """See the module. ``entries`` is what a completion can name by now, ``left`` whether there is more to come."""

    def __init__(
        self, assign: JobAssign, slot_directory: SlotDirectory, name: str, resources: Resources, store: Store
    ) -> None:
        self._assign = assign
        self._slot_directory = slot_directory
        self._name = name
        self._resources = resources
        self._store = store
        self._streams_directory = slot_directory.streams(name)
        self.entries: list[OutputEntry] = []
        self.trouble = ""
        self._outputs: list[str] = []
        self._streams: list[tuple[str, bool]] = []

    @property
    def left(self) -> bool:
        """Something is yet to be stored."""
        return bool(self._outputs or self._streams)

    def conclusion(self, completion: JobCompletion) -> Conclusion:
        """Put a completion together with what is left."""
        return Conclusion(completion=completion, outputs=[*self._outputs], streams=[*self._streams])

    def take_up(self, conclusion: Conclusion) -> None:
        """Go on from what an agent before us has written down."""
        self.entries = [*conclusion.completion.outputs]
        self._outputs, self._streams = [*conclusion.outputs], [*conclusion.streams]

    def keep_streams(self, streams: Sequence[CappedFile], *, large: bool) -> None:
        """Of an attempt that did not end well keep what it printed: that is what its owner will ask for."""
        self.entries, self._outputs, self._streams = [], [], []
        self._take_streams(streams, large=large)

    async def collect(self, held: Directory, streams: Sequence[CappedFile], most_bytes: int) -> None:
        """Take what is small, and make durable what is left. Raises AttemptFailed if an output is not as described."""
        self.entries, self._outputs, self._streams = [], [], []
        self._take_streams(streams, large=True)
        taken = frozenset(stream.name for stream in streams)
        look = (held, self._assign.outputs, self._slot_directory.uid, most_bytes, taken)
        # A few names are looked up sooner than a thread is told to; a pattern may match thousands.
        is_quick = not self._assign.outputs
        found = outputs.find(*look) if is_quick else await asyncio.to_thread(outputs.find, *look)
        self._take_small(held, found)
        if self.left:
            await asyncio.to_thread(self._sync, held)

    async def store_left(self) -> None:
        """Store what is left, one by one; what is stored is an entry then. Raises AttemptFailed, OSError."""
        with Directory(self._slot_directory.work) as work, work.under(self._name) as held:
            while self._outputs:
                name = self._outputs[0]
                with outputs.opened(held, name, self._slot_directory.uid) as descriptor:
                    entry = await self._insist(Path(f"/proc/self/fd/{descriptor}"), name)
                self.entries.append(entry)
                self._outputs.pop(0)
        while self._streams:
            name, is_cut = self._streams[0]
            entry = await self._insist(self._stream_path(name), name)
            self.entries.append(msgspec.structs.replace(entry, truncated=is_cut))
            self._streams.pop(0)

    def keep_only_left(self) -> None:
        """Remove what is not to be stored: it would be in the way for as long as that takes. What cannot be removed is
        told. Blocking."""
        try:
            with Directory(self._slot_directory.work) as work, work.under(self._name) as held:
                tree.keep_only(held, self._outputs)
        except FileNotFoundError:  # it never had a directory
            return
        except (OSError, PathEscapes) as error:
            log.error("files not removed", extra={"job": self._assign.job, "why": str(error)})

    def discard(self) -> None:
        """Remove files of streams; those that cannot be are told. Blocking."""
        try:
            if self._streams_directory.exists():
                shutil.rmtree(self._streams_directory)
        except OSError as error:
            log.error("streams not removed", extra={"job": self._assign.job, "why": str(error)})

    def _stream_path(self, name: str) -> Path:
        return self._streams_directory / name

    def _take_streams(self, streams: Sequence[CappedFile], *, large: bool) -> None:
        self.entries += [
            _entry(stream.name, stream.head, is_cut=stream.cut_bytes > 0) for stream in streams if stream.is_small
        ]
        if large:
            self._streams = [(stream.name, stream.cut_bytes > 0) for stream in streams if not stream.is_small]

    def _take_small(self, held: Directory, found: Sequence[outputs.FoundOutput]) -> None:
        """Small outputs ride in the completion as long as they fit together, the smallest first."""
        room = MAX_INLINE_OUTPUT_BYTES - sum(entry.size for entry in self.entries)
        for output in sorted(found, key=lambda one: one.size):
            if output.size > room:
                self._outputs.append(output.name)
                continue
            room -= output.size
            with outputs.opened(held, output.name, self._slot_directory.uid) as descriptor:
                self.entries.append(_entry(output.name, outputs.read(descriptor, output.size)))

    def _sync(self, held: Directory) -> None:
        """Outputs that stay in the guest for now outlast a power cut, and so do streams."""
        for name in self._outputs:
            with outputs.opened(held, name, self._slot_directory.uid) as descriptor:
                os.fsync(descriptor)
        for name, _ in self._streams:
            durable.sync_file(self._stream_path(name))
        os.fsync(held.descriptor)
        for directory in (held.path.parent, self._streams_directory):
            if directory.exists():
                durable.sync_directory(directory)

    async def _insist(self, path: Path, name: str) -> OutputEntry:
        """Store one output, again and again; the beats say what is the trouble.

        How long an attempt may store its outputs the ledger decides, which takes no outage of the centre for its
        guests' fault. Patience counts from the first failure of another kind: a try may take hours."""
        deadline = math.inf
        for wait_s in backoff(0.5, 30.0):
            try:
                entry = await self._store(path, name)
                self.trouble = ""
                return entry
            except TransferFailed as failure:
                if failure.code is ErrorCode.TOO_LARGE:
                    raise AttemptFailed(Outcome.FAILED, f"output {name!r}: {failure}") from failure
                self.trouble = f"stage-out of {name!r}: {failure}"
                log.warning("stage-out failed", extra={"job": self._assign.job, "why": str(failure)})
                patient_until = time.monotonic() + self._resources.store_patience_s
                deadline = math.inf if failure.code in _WAITED_FOR else min(deadline, patient_until)
                if time.monotonic() + wait_s > deadline:
                    raise AttemptFailed(Outcome.LOST, self.trouble) from failure
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")


def _entry(name: str, content: bytes, *, is_cut: bool = False) -> OutputEntry:
    return OutputEntry(name=name, size=len(content), sha256=digest_of(content), content=content, truncated=is_cut)
