"""One attempt of a job, from its assignment to its completion: stage-in, run, validate, stage-out.

Whatever happens in here becomes an outcome with a cause that a person can read; nothing escapes as an exception but the
agent's own shutdown. That it begins, and how it ended, is durable in the guest before anybody is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from broker.backoff import backoff
from broker.errors import TransferFailed
from guest_agent.book import Conclusion, Past
from guest_agent.directory import Directory
from guest_agent.errors import AttemptFailed, NotContained, PathEscapes
from guest_agent.execution import Execution
from guest_agent.room import Room, Store, directory_name
from guest_agent.stage_in import place
from guest_agent.stage_out import StageOut
from schemas.description import Input
from schemas.errors import ErrorCode
from schemas.jobs import Holding, JobAssign, JobCompletion, Outcome, Phase, Steps

log = logging.getLogger(__name__)


class Attempt:
    """See the module. ``run`` once; ``stop`` any time."""

    def __init__(self, assign: JobAssign, slot: int, room: Room, store: Store) -> None:
        self.assign = assign
        self.phase = Phase.ASSIGNED
        self.stopped: str | None = None
        #: Done when it is durable that this begins; None while nobody has seen to it.
        self.noted: asyncio.Future[None] | None = None
        self._room = room
        self._container = room.containers[slot]
        self._quarters = self._container.quarters
        #: The boot in which it ran.
        self._boot_id = room.boot_id
        self._mark = time.monotonic()
        self._steps = Steps()
        self._task: asyncio.Task[None] | None = None
        self._name = directory_name(assign)
        self._held: Directory | None = None
        #: The array whose next attempt may have its directory, once this one has left it as it was made.
        self._left_to = ""
        self._execution = Execution(assign, self._container, self._name, room)
        self._out = StageOut(assign, self._quarters, self._name, room, store)
        self._completion_trouble = self._stage_in_trouble = ""

    @property
    def trouble(self) -> str:
        """What keeps it from going on, in words for a person; empty while all is well."""
        return self._completion_trouble or self._stage_in_trouble or self._out.trouble

    @trouble.setter
    def trouble(self, text: str) -> None:
        self._completion_trouble = text

    def holding(self) -> Holding:
        """Say where it is, for a beat."""
        usage = self._execution.usage
        if self.phase == Phase.RUNNING:
            usage = msgspec.structs.replace(usage, wall_seconds=time.monotonic() - self._mark)
        return Holding(
            job=self.assign.job, attempt=self.assign.attempt, phase=self.phase, usage=usage, trouble=self.trouble
        )

    def stop(self, reason: str) -> None:
        """End it: cancelled, or superseded. A payload that runs has its grace. Idempotent."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if not self._execution.stop() and self._task is not None:
            self._task.cancel()

    async def run(self) -> JobCompletion:
        """Take the attempt to its end and say how it ended. Leaves no process; to be written down, then told."""
        self._step(wait_s=self._since_mark())
        outcome, cause = await self._guard(self._pipeline())
        if outcome is not Outcome.DONE:
            self._out.keep_streams(self._execution.streams, large=outcome is not Outcome.CANCELLED)
        return await self._conclude(outcome, cause)

    async def go_on(self, conclusion: Conclusion) -> JobCompletion:
        """Take it to its end from where an agent before us had written down that it ended."""
        told = conclusion.completion
        self._boot_id = told.boot_id
        self._steps, self._execution.exit_status, self._execution.usage = told.steps, told.exit_status, told.usage
        self._out.take_up(conclusion)
        return await self._conclude(told.outcome, told.cause)

    def give_back(self) -> JobCompletion:
        """End it before it has begun, for another slot to run it; one that was stopped has been cancelled."""
        if self.stopped is not None:
            return self._completion(Outcome.CANCELLED, self.stopped)
        return self._completion(Outcome.RETURNED, "given back: the job before it in its slot takes long")

    def bury(self, past: Past) -> JobCompletion | None:
        """Say that it was lost, if an agent before us had begun it and not written down an end; else None."""
        if not past.begun and self._name not in self._room.found:
            return None
        before = self._room.boot_before
        if past.begun and before != self._room.boot_id:
            self._boot_id = before
            return self._completion(Outcome.LOST, "the VM went down while it ran")
        if self._name not in self._room.found:
            return None  # written down ahead of its turn, which did not come
        return self._completion(Outcome.LOST, "the guest agent was restarted while it ran")

    async def write_down(self, completion: JobCompletion, *, within_s: float = 0.0) -> None:
        """Make its end durable, with others that end ``within_s``: until then nobody is told. A disk that is full is
        made room on, and tried again."""
        conclusion = self._out.conclusion(msgspec.structs.replace(completion, request=None))
        for wait_s in backoff(0.2, 20.0):
            try:
                await self._room.book.conclude(self.assign.id, conclusion, within_s=within_s)
                self.trouble = ""
                return
            except OSError as error:
                self.trouble = f"its end cannot be written down: {error.strerror}: {error.filename}"
                log.error("end not written", extra={"job": self.assign.job, "why": str(error)})
                await asyncio.to_thread(self._make_room)
                await asyncio.sleep(wait_s)

    def _make_room(self) -> None:
        """Let go of all that its end does not name: the disk may be full of that and of nothing else.

        Its directory stays: it says that this has begun, for as long as nothing that is written says how it ended.
        """
        self._keep_only_left()
        if not self._out.left:
            self._discard_streams()
        self._room.cache.make_room(1 << 62)

    def _keep_only_left(self) -> None:
        try:
            self._out.keep_only_left()
        except FileNotFoundError:  # it never had a directory
            return
        except (OSError, PathEscapes) as error:
            log.error("files not removed", extra={"job": self.assign.job, "why": str(error)})

    def discard(self) -> None:
        """Remove its files: how it ended is written down. Idempotent; blocking."""
        left_to, self._left_to = self._left_to, ""
        try:
            self._quarters.remove(self._name, left_to)
        except OSError as error:
            log.error("files not removed", extra={"job": self.assign.job, "why": str(error)})
        self._discard_streams()

    def _discard_streams(self) -> None:
        try:
            self._out.discard()
        except OSError as error:
            log.error("streams not removed", extra={"job": self.assign.job, "why": str(error)})

    @property
    def _array(self) -> str:
        return self.assign.job.rpartition(".")[0]

    async def _guard(self, work: Coroutine[Any, Any, None]) -> tuple[Outcome, str]:
        """Do some of it, and say what came of that."""
        self._task = asyncio.ensure_future(work)
        try:
            await self._task
        except AttemptFailed as failure:
            return failure.outcome, failure.cause
        except NotContained as error:
            return Outcome.LOST, f"{self.phase}: {error}"
        except OSError as error:
            return Outcome.LOST, f"{self.phase}: {error.strerror}: {error.filename or self._name}"
        except asyncio.CancelledError:
            if self.stopped is None:
                self._task.cancel()
                raise
            return Outcome.CANCELLED, self.stopped
        except Exception as error:
            log.exception("attempt not foreseen", extra={"job": self.assign.job, "phase": self.phase})
            return Outcome.LOST, f"{self.phase}: the guest agent did not foresee this: {error!r}"
        finally:
            self._task = None
        return Outcome.DONE, ""

    async def _pipeline(self) -> None:
        if self.stopped is not None:
            raise AttemptFailed(Outcome.CANCELLED, self.stopped)
        try:
            self.phase = Phase.STAGE_IN
            await self._stage_in()
            self._step(stage_in_s=self._since_mark())
            self.phase = Phase.RUNNING
            await self._execution.run(self._directory)
            self._step(run_s=self._since_mark())
            self._refuse_stopped()
            if self.assign.validation:
                self.phase = Phase.VALIDATING
                await self._execution.validate(self._directory)
                self._step(validate_s=self._since_mark())
                self._refuse_stopped()
            self.phase = Phase.STAGE_OUT
            self._quarters.take_back(self._directory)
            await self._out.collect(self._directory, self._execution.streams, self._execution.disk_bytes)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Nothing of it runs: the next payload in the slot finds none of its files."""
        self._execution.leave()
        if self._held is not None:
            self._quarters.take_back(self._held)
            self._left_to = self._array if self._quarters.is_as_made(self._held) else ""
            self._held.close()
        if self._quarters.is_clear():
            return
        try:
            await asyncio.to_thread(self._quarters.clear_scratch)
        except OSError as error:
            log.error("scratch not cleared", extra={"slot": str(self._quarters.directory), "why": str(error)})
            self._quarters.renew_scratch(self._room.aside)
            self._container.close()

    @property
    def _directory(self) -> Directory:
        if self._held is None:
            raise RuntimeError("an attempt is run before its directory was made")
        return self._held

    def _refuse_stopped(self) -> None:
        if self.stopped is not None:
            raise AttemptFailed(Outcome.CANCELLED, self.stopped)

    async def _stage_in(self) -> None:
        try:
            await self._container.open()
            self._held = self._quarters.make(self._name, self._array)
            for item in self.assign.inputs:
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
        """Place an input, again and again while others on their way have the room that it needs at the centre: it
        bounds how long an attempt may be there. The beats say what is waited for."""
        try:
            for wait_s in backoff(0.5, 30.0):
                try:
                    return await self._place(item)
                except TransferFailed as failure:
                    if failure.code is not ErrorCode.NO_ROOM:
                        raise
                    self._stage_in_trouble = f"stage-in of {item.name!r}: {failure}"
                    log.info("stage-in waits", extra={"job": self.assign.job, "why": str(failure)})
                await asyncio.sleep(wait_s)
        finally:
            self._stage_in_trouble = ""

    async def _place(self, item: Input) -> None:
        owner = self._quarters.owner
        is_program = item.executable or item.name in (self.assign.executable, self.assign.validation)
        if item.sha256 is None:
            place(item, None, self._directory, owner, executable=is_program)
            return
        async with self._room.cache.lend(item.sha256, item.size) as cached:
            await asyncio.to_thread(place, item, cached, self._directory, owner, executable=is_program)

    async def _conclude(self, outcome: Outcome, cause: str) -> JobCompletion:
        """Store what is yet to be stored, after it was written down how it ended."""
        self.phase = Phase.STAGE_OUT
        if self._out.left:
            await asyncio.to_thread(self._keep_only_left)
            await self.write_down(self._completion(outcome, cause))
            stored, why = await self._guard(self._out.store_left())
            if stored is not Outcome.DONE and (outcome is Outcome.DONE or stored is Outcome.CANCELLED):
                outcome, cause = stored, why
            elif stored is not Outcome.DONE:
                log.warning("streams not kept", extra={"job": self.assign.job, "why": why})
        self._step(stage_out_s=self._since_mark())
        return self._completion(outcome, cause)

    def _completion(self, outcome: Outcome, cause: str) -> JobCompletion:
        return JobCompletion(
            job=self.assign.job,
            attempt=self.assign.attempt,
            outcome=outcome,
            exit_status=self._execution.exit_status,
            cause=cause,
            usage=self._execution.usage,
            steps=self._steps,
            outputs=self._out.entries,
            boot_id=self._boot_id,
        )

    def _step(self, **seconds: float) -> None:
        self._steps = msgspec.structs.replace(self._steps, **seconds)
        self._mark = time.monotonic()

    def _since_mark(self) -> float:
        return time.monotonic() - self._mark
