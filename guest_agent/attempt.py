"""One attempt of a job, from its assignment to its completion: stage-in, run, validate, stage-out.

Whatever happens in here becomes an outcome with a cause that a person can read; nothing escapes as an exception but the
agent's own shutdown. The payload sees a fresh directory and nothing of the agent's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.backoff import backoff
from broker.errors import TransferFailed
from guest_agent.accounts import end_all_of
from guest_agent.cache import InputCache, digest_of
from guest_agent.errors import CannotRun
from guest_agent.payload import Account, CappedFile, Ended, Payload, kill_group_left_behind, overwrite, since_boot
from schemas.description import Input
from schemas.errors import ErrorCode
from schemas.jobs import (
    MAX_INLINE_OUTPUT_BYTES,
    MAX_STREAM_BYTES,
    Holding,
    JobAssign,
    JobCompletion,
    Outcome,
    OutputEntry,
    Phase,
    Steps,
    Usage,
)

log = logging.getLogger(__name__)

#: End of the name of a directory that holds an attempt's streams.
STREAMS = ".streams"
#: Search path of a payload.
PATH = "/usr/local/bin:/usr/bin:/bin"
#: A payload killed by the kernel for want of memory.
KILLED = 137

#: Sends one output (path, name in the attempt) to the store. Raises TransferFailed.
Store = Callable[[Path, str], Awaitable[OutputEntry]]


class Failure(Exception):
    """The attempt is at its end, with this outcome and cause."""

    def __init__(self, outcome: Outcome, cause: str) -> None:
        super().__init__(cause)
        self.outcome, self.cause = outcome, cause


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What every attempt of a guest shares."""

    directory: Path
    cache: InputCache
    boot_id: str
    #: The account that payloads of a slot run as; None = the agent's own.
    account: Callable[[int], Account | None]
    memory_bytes: int = 0
    #: How long an output may wait for a store that is full or away, seconds.
    store_patience_s: float = 3600.0


class Attempt:
    """See the module. ``run`` once; ``stop`` any time."""

    def __init__(self, assign: JobAssign, slot: int, room: Room, store: Store) -> None:
        self.assign = assign
        self.phase = Phase.ASSIGNED
        self.trouble = ""
        self.stopped: str | None = None
        self._room = room
        self._account = room.account(slot)
        self._store = store
        self._came = self._mark = time.monotonic()
        self._steps = Steps()
        self._usage = Usage()
        self._exit_status = -1
        self._outputs: list[OutputEntry] = []
        self._payload: Payload | None = None
        self._streams: list[CappedFile] = []
        self._was_begun_before = False
        self._task: asyncio.Task[None] | None = None
        #: The payload's directory. It is there from the attempt's beginning until its completion is answered, so that
        #: an agent that comes after us knows what has begun.
        self._work = room.directory / _directory_name(assign)
        #: Streams that are not small; not where the payload could put links in our way.
        self._kept = self._work.with_name(f"{self._work.name}{STREAMS}")
        #: Names the process group that runs in this slot, for such an agent.
        self._note = room.directory / f"slot-{slot}"

    @property
    def run_seconds(self) -> float:
        """How long the payload ran."""
        return self._steps.run_s

    def holding(self) -> Holding:
        """Say where it is, for a beat."""
        usage = self._usage
        if self._payload is not None and self.phase == Phase.RUNNING:
            usage = msgspec.structs.replace(usage, wall_seconds=time.monotonic() - self._mark)
        return Holding(
            job=self.assign.job, attempt=self.assign.attempt, phase=self.phase, usage=usage, trouble=self.trouble
        )

    def stop(self, reason: str) -> None:
        """End it: cancelled, or superseded. Idempotent."""
        if self.stopped is None:
            self.stopped = reason
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> JobCompletion:
        """Take the attempt to its end and say how it ended. Leaves no process; its files stay until ``discard``."""
        self._step(wait_s=self._since_mark())
        self._task = asyncio.ensure_future(self._pipeline())
        try:
            await self._task
            outcome, cause = Outcome.DONE, ""
        except Failure as failure:
            outcome, cause = failure.outcome, failure.cause
        except OSError as error:
            self._end_payload()
            outcome, cause = Outcome.LOST, f"{self.phase}: {error.strerror}: {error.filename or self._work}"
        except asyncio.CancelledError:
            if self.stopped is None:
                self._task.cancel()
                raise
            outcome, cause = Outcome.CANCELLED, self.stopped
            await self._end_all()
        if outcome is not Outcome.DONE:
            await self._keep_streams()
        return self._completion(outcome, cause)

    def give_back(self) -> JobCompletion:
        """End it before it has begun, for another slot to run it; one that was stopped has been cancelled.

        Its directory tells an agent that comes after us not to run it.
        """
        with suppress(OSError):
            self._work.mkdir(mode=0o700)
        if self.stopped is not None:
            return self._completion(Outcome.CANCELLED, self.stopped)
        return self._completion(Outcome.RETURNED, "given back: the job before it in its slot takes long")

    def discard(self) -> None:
        """Remove its files: its completion counts. Blocking."""
        try:
            self._work.rmdir()
        except OSError:  # there is something in it, or it never was
            shutil.rmtree(self._work, ignore_errors=True)
        if self._was_begun_before or self._large_streams():
            shutil.rmtree(self._kept, ignore_errors=True)

    def bury(self) -> JobCompletion | None:
        """If an agent before us had begun it, kill what is left of it and say that it was lost; else None. Blocking."""
        if not self._work.exists():
            return None
        with suppress(FileNotFoundError, ValueError):
            job, attempt, pid, noted_s = self._note.read_text().split()
            if (job, attempt) == (self.assign.job, str(self.assign.attempt)):
                kill_group_left_behind(int(pid), float(noted_s))
        self._was_begun_before = True
        return self._completion(Outcome.LOST, "the guest agent was restarted while it ran")

    async def _pipeline(self) -> None:
        if self.stopped is not None:
            raise Failure(Outcome.CANCELLED, self.stopped)
        await self._stage_in()
        await self._run()
        if self.assign.validation:
            await self._validate()
        await self._stage_out()

    async def _stage_in(self) -> None:
        self.phase = Phase.STAGE_IN
        try:
            _make_directory(self._work, self._account)
            for item in self.assign.inputs:
                cached = await self._room.cache.get(item.sha256) if item.sha256 else None
                await asyncio.to_thread(_place, item, cached, self._work, self._account)
        except TransferFailed as failure:
            outcome = Outcome.FAILED if failure.code == ErrorCode.NOT_FOUND else Outcome.LOST
            raise Failure(outcome, f"stage-in: {failure}") from failure
        except OSError as error:
            raise Failure(Outcome.LOST, f"stage-in: {error.strerror}: {error.filename}") from error
        self._step(stage_in_s=self._since_mark())

    async def _run(self) -> None:
        self.phase = Phase.RUNNING
        ended = await self._execute(
            [self._program(self.assign.executable), *self.assign.arguments], "", self.assign.wall_time_s
        )
        self._exit_status = ended.exit_status
        self._usage = Usage(
            cpu_seconds=ended.cpu_seconds, wall_seconds=ended.wall_seconds, peak_rss_bytes=ended.peak_rss_bytes
        )
        self._step(run_s=self._since_mark())
        if ended.timed_out:
            raise Failure(Outcome.FAILED, f"wall time: it ran longer than wall_time_s = {self.assign.wall_time_s:g}")
        if ended.exit_status:
            raise Failure(Outcome.FAILED, _exit_cause(ended, self._memory_bytes()))

    async def _validate(self) -> None:
        self.phase = Phase.VALIDATING
        program = self._program(self.assign.validation)
        ended = await self._execute([program], "validation.", self.assign.wall_time_s)
        self._step(validate_s=self._since_mark())
        if ended.exit_status or ended.timed_out:
            raise Failure(Outcome.FAILED, f"validation {self.assign.validation!r} ended with {ended.exit_status}")

    async def _execute(self, command: list[str], prefix: str, wall_time_s: float) -> Ended:
        streams = [CappedFile(self._kept / f"{prefix}{name}", MAX_STREAM_BYTES) for name in ("stdout", "stderr")]
        self._streams += streams
        try:
            self._payload = Payload.start(
                command,
                directory=self._work,
                environment=self._environment(),
                stdout=streams[0],
                stderr=streams[1],
                account=self._account,
                memory_bytes=self._memory_bytes(),
            )
            self._note_process(self._payload.pid)
            ended = await self._payload.wait(wall_time_s)
            await self._end_all()
            return ended
        except CannotRun as error:
            raise Failure(Outcome.FAILED, str(error)) from error
        finally:
            for stream in streams:
                stream.close()

    async def _end_all(self) -> None:
        if self._account is not None:
            await asyncio.to_thread(end_all_of, self._account)

    def _end_payload(self) -> None:
        if self._payload is not None:
            self._payload.signal(signal.SIGKILL)

    def _program(self, name: str) -> str:
        """An input of that name is run by its path, made executable; all else is looked up in the payload's PATH."""
        local = self._work / name
        if any(item.name == name for item in self.assign.inputs) and not local.is_symlink() and local.is_file():
            local.chmod(0o755)
            return str(local)
        return shutil.which(name, path=PATH) or name

    def _memory_bytes(self) -> int:
        return self.assign.memory_mib << 20 or self._room.memory_bytes

    def _environment(self) -> dict[str, str]:
        """What a payload sees: its own variables and the few that programs take for granted, none of the agent's."""
        base = {"PATH": PATH, "HOME": str(self._work), "TMPDIR": str(self._work), "LANG": "C.UTF-8"}
        return {**base, **self.assign.environment}

    def _note_process(self, pid: int) -> None:
        """In place: a file made and removed for each payload costs as much as all else that is done for it."""
        overwrite(self._note, f"{self.assign.job} {self.assign.attempt} {pid} {since_boot()}".encode())

    async def _stage_out(self) -> None:
        self.phase = Phase.STAGE_OUT
        wanted = [(o.name, self._work / o.name, o.optional) for o in self.assign.outputs]
        for name, path, optional in wanted:
            problem = _output_problem(path, self._work)
            if problem and not optional:
                raise Failure(Outcome.FAILED, f"outputs: {name!r} {problem}")
        present = [(name, path) for name, path, _ in wanted if not _output_problem(path, self._work)]
        self._ride_along()
        await self._store_all([*present, *self._large_streams()])
        self._step(stage_out_s=self._since_mark())

    async def _keep_streams(self) -> None:
        """What a failed payload printed is what its owner will ask for."""
        self._outputs = []
        self._ride_along()
        try:
            await self._store_all(self._large_streams())
        except (Failure, OSError) as error:
            log.warning("streams not kept", extra={"job": self.assign.job, "why": str(error)})

    def _ride_along(self) -> None:
        """Small streams go into the completion as they are."""
        self._outputs += [_entry(s.path.name, s.head, s) for s in self._streams if s.is_small]

    def _large_streams(self) -> list[tuple[str, Path]]:
        return [(stream.path.name, stream.path) for stream in self._streams if not stream.is_small]

    async def _store_all(self, files: list[tuple[str, Path]]) -> None:
        """Small outputs ride in the completion as long as they fit together; the others go to the store."""
        room = MAX_INLINE_OUTPUT_BYTES - sum(entry.size for entry in self._outputs)
        for name, path in sorted(files, key=lambda f: f[1].stat().st_size):
            size = path.stat().st_size
            if size <= room:
                room -= size
                self._outputs.append(_entry(name, path.read_bytes()))
            else:
                entry = await self._insist(path, name)
                cut = any(s.path == path and s.cut_bytes for s in self._streams)
                self._outputs.append(msgspec.structs.replace(entry, truncated=cut))

    async def _insist(self, path: Path, name: str) -> OutputEntry:
        """Store one output, again and again while the store is full or away; the beats say what is the trouble."""
        deadline = time.monotonic() + self._room.store_patience_s
        for wait_s in backoff(0.5, 30.0):
            try:
                entry = await self._store(path, name)
                self.trouble = ""
                return entry
            except TransferFailed as failure:
                if failure.code is ErrorCode.TOO_LARGE:
                    raise Failure(Outcome.FAILED, f"output {name!r}: {failure}") from failure
                self.trouble = f"stage-out of {name!r}: {failure}"
                log.warning("stage-out failed", extra={"job": self.assign.job, "why": str(failure)})
                if time.monotonic() + wait_s > deadline:
                    raise Failure(Outcome.LOST, self.trouble) from failure
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _completion(self, outcome: Outcome, cause: str) -> JobCompletion:
        return JobCompletion(
            job=self.assign.job,
            attempt=self.assign.attempt,
            outcome=outcome,
            exit_status=self._exit_status,
            cause=cause,
            usage=self._usage,
            steps=self._steps,
            outputs=self._outputs,
            boot_id=self._room.boot_id,
        )

    def _step(self, **seconds: float) -> None:
        self._steps = msgspec.structs.replace(self._steps, **seconds)
        self._mark = time.monotonic()

    def _since_mark(self) -> float:
        return time.monotonic() - self._mark


def _entry(name: str, content: bytes, stream: CappedFile | None = None) -> OutputEntry:
    truncated = stream is not None and stream.cut_bytes > 0
    return OutputEntry(name=name, size=len(content), sha256=digest_of(content), content=content, truncated=truncated)


def remove_left_behind(directory: Path, unfinished: Iterable[JobAssign]) -> None:
    """Remove what attempts have left that were answered before an agent before us could do so. Blocking."""
    kept = {_directory_name(assign) for assign in unfinished}
    for path in directory.iterdir():
        if path.is_dir() and path.name.removesuffix(STREAMS) not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _directory_name(assign: JobAssign) -> str:
    return f"{assign.job.replace('/', '_')}.{assign.attempt}"


def _make_directory(work: Path, account: Account | None) -> None:
    """Make an attempt's directory, the payload's own; ``bury`` has seen to it that it is not there. In line: a hop to
    a thread costs ten times as much."""
    work.mkdir(mode=0o700, parents=True)
    if account is not None:
        os.chown(work, account.uid, account.gid)


def _place(item: Input, cached: Path | None, work: Path, account: Account | None) -> None:
    """Put an input where the payload expects it. A payload of another account cannot change a linked file."""
    path = work / item.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if cached is None:
        path.write_bytes(item.content or b"")
    elif account is not None and not item.executable:
        os.link(cached, path)
        return
    else:
        shutil.copyfile(cached, path)
    path.chmod(0o755 if item.executable else 0o644)


def _output_problem(path: Path, work: Path) -> str:
    if not path.exists():
        return "was not made by the job; check the name, or mark it optional"
    if path.is_symlink() or not path.resolve().is_relative_to(work.resolve()):
        return "is a link out of the job's directory"
    return "" if path.is_file() else "is not a regular file"


def _exit_cause(ended: Ended, memory_bytes: int) -> str:
    cause = f"payload ended with {ended.exit_status}"
    if ended.exit_status == KILLED:
        cause += " (killed; out of memory is the usual reason)"
    if ended.exit_status > 128:
        cause += f", by signal {ended.exit_status - 128}"
    limit = f", its limit was {memory_bytes >> 20} MiB" if memory_bytes else ""
    return f"{cause}; it used {ended.peak_rss_bytes >> 20} MiB of memory at most{limit}"
