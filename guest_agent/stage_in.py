"""Putting a job's inputs into its directory: out of the description, or out of the cache. Holes in files stay holes."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from broker import durable
from broker.backoff import backoff
from broker.errors import TransferFailed
from guest_agent.cache import InputCache
from guest_agent.directory import Directory
from guest_agent.errors import AttemptFailed, PathEscapes
from guest_agent.sandbox import Sandbox
from schemas.description import Input
from schemas.errors import ErrorCode
from schemas.jobs import JobAssign, Outcome

log = logging.getLogger(__name__)

#: Bytes that are copied at a time.
COPY_BYTES = 1 << 20


#: Refusals that pass: there is no room just now; or, by the centre's clock, our attempt is nobody's for a moment, and
#: it will tell us to go on or to stop.
_PASSING = frozenset({ErrorCode.NO_ROOM, ErrorCode.FORBIDDEN})


class StageIn:
    """The inputs of one attempt. ``trouble`` says in words what they wait for; empty while all is well."""

    def __init__(self, assign: JobAssign, sandbox: Sandbox, cache: InputCache) -> None:
        self._assign, self._sandbox, self._cache = assign, sandbox, cache
        self.trouble = ""

    async def run(self) -> None:
        """Make the directory and put all inputs there. Raises AttemptFailed, NotContained."""
        try:
            await self._sandbox.make()
            for item in self._assign.inputs:
                await self._insist(item)
        except TransferFailed as failure:
            outcome = Outcome.FAILED if failure.code == ErrorCode.NOT_FOUND else Outcome.LOST
            raise AttemptFailed(outcome, f"stage-in: {failure}") from failure
        except (NotADirectoryError, FileExistsError, PathEscapes) as error:
            # Names of inputs that stand in each other's way: another machine would say the same.
            raise AttemptFailed(Outcome.FAILED, f"stage-in: inputs: {error}") from error
        except OSError as error:
            raise AttemptFailed(Outcome.LOST, f"stage-in: {error.strerror}: {error.filename}") from error

    async def _insist(self, item: Input) -> None:
        """Place an input, again and again while it is refused for what passes: the centre bounds how long an attempt
        may be there. The beats say what is waited for."""
        try:
            for wait_s in backoff(0.5, 30.0):
                try:
                    return await self._place(item)
                except TransferFailed as failure:
                    if failure.code not in _PASSING:
                        raise
                    self.trouble = f"stage-in of {item.name!r}: {failure}"
                    log.info("stage-in waits", extra={"job": self._assign.job, "why": str(failure)})
                await asyncio.sleep(wait_s)
        finally:
            self.trouble = ""

    async def _place(self, item: Input) -> None:
        owner = self._sandbox.slot_directory.owner
        is_program = item.executable or item.name in (self._assign.executable, self._assign.validation)
        if item.sha256 is None:
            place(item, None, self._sandbox.directory, owner, executable=is_program)
            return
        async with self._cache.lend(item.sha256, item.size) as cached:
            await asyncio.to_thread(place, item, cached, self._sandbox.directory, owner, executable=is_program)


def place(
    item: Input, cached: Path | None, held: Directory, owner: tuple[int, int] | None, *, executable: bool
) -> None:
    """Put an input where the payload expects it. Blocking. Raises OSError.

    Where payloads have another account a cached file is linked: they can read it, and neither change nor list it.
    """
    if cached is not None and owner is not None and not executable and _linked(cached, item.name, held, owner):
        return
    target = held.create(item.name, owner=owner, mode=0o755 if executable else 0o644)
    try:
        if cached is None:
            durable.write_all(target, item.content or b"")
        else:
            _copy(cached, target)
    finally:
        os.close(target)


def _linked(cached: Path, name: str, held: Directory, owner: tuple[int, int]) -> bool:
    try:
        held.link(cached, name, owner=owner)
    except OSError:  # another file system, or too many links: copied then, and what else is wrong shows there
        return False
    return True


def _copy(source: Path, target: int) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        at = 0
        while at < size:
            at = _next_data(descriptor, at, size)
            piece = os.pread(descriptor, COPY_BYTES, at)
            durable.write_all(target, piece, at)
            at += len(piece)
        os.ftruncate(target, size)
    finally:
        os.close(descriptor)


def _next_data(descriptor: int, at: int, size: int) -> int:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError:  # ENXIO: a hole up to the end
        return size
