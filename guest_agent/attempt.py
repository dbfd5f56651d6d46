"""One attempt of a job, from its assignment to its completion: stage-in, run, validate, stage-out.

Whatever happens in here becomes an outcome with a cause that a person can read; nothing escapes as an exception but the
agent's own shutdown. That it begins, and how it ended, is durable in the guest before anybody is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from broker.backoff import backoff
from guest_agent.attempt_journal import Conclusion, Past
from guest_agent.errors import AttemptFailed, NotContained
from guest_agent.execution import JobExecution
from guest_agent.resources import Resources, Store
from guest_agent.sandbox import Sandbox
from guest_agent.stage_in import StageIn
from guest_agent.stage_out import StageOut
from guest_agent.step_clock import StepClock
from guest_agent.told_files import FileWishes, ToldFiles
from schemas.jobs import Holding, JobAssign, JobCompletion, Outcome, Phase

log = logging.getLogger(__name__)


class Attempt:
    """See the module. ``run`` once; ``stop`` any time."""

    def __init__(self, assign: JobAssign, slot: int, resources: Resources, store: Store) -> None:
        self.assign = assign
        self.phase = Phase.ASSIGNED
        self.stopped: str | None = None
        #: Done when it is durable that this begins; None while nobody has seen to it.
        self.noted: asyncio.Future[None] | None = None
        self._resources = resources
        #: The boot in which it ran.
        self._boot_id = resources.boot_id
        self._clock = StepClock()
        self._task: asyncio.Task[None] | None = None
        container = resources.containers[slot]
        self._sandbox = Sandbox(assign, container, resources.aside)
        self._stage_in = StageIn(assign, self._sandbox, resources.cache)
        self._execution = JobExecution(assign, container, self._sandbox.name, resources)
        self._stage_out = StageOut(assign, container.slot_directory, self._sandbox.name, resources, store)
        self._told = ToldFiles(assign, container.slot_directory.uid, store)
        self._completion_trouble = ""

    @property
    def trouble(self) -> str:
        """What keeps it from going on, in words for a person; empty while all is well."""
        return self._completion_trouble or self._stage_in.trouble or self._stage_out.trouble

    @trouble.setter
    def trouble(self, text: str) -> None:
        self._completion_trouble = text

    def holding(self) -> Holding:
        """Say where it is, for a beat."""
        usage = self._execution.usage
        if self.phase == Phase.RUNNING:
            usage = msgspec.structs.replace(usage, wall_seconds=self._clock.elapsed_s)
        return Holding(
            job=self.assign.job,
            attempt=self.assign.attempt,
            phase=self.phase,
            usage=usage,
            trouble=self.trouble,
            told=self._told.look(self._sandbox.directory) if self.phase is Phase.RUNNING else [],
            stored=[*self._told.stored],
            handed=[*self._told.handed],
        )

    def on_wishes(self, wishes: FileWishes) -> list[Coroutine[Any, Any, None]]:
        """Do what the centre wants of the job's files; give what takes longer."""
        if self.phase is not Phase.RUNNING:
            return []
        for file in wishes.hands:
            self._told.put(self._sandbox.directory, file, self._sandbox.slot_directory.owner)
        for ref in wishes.removes:
            self._told.remove(self._sandbox.directory, ref)
        return [self._told.store(self._sandbox.directory, ref) for ref in wishes.wants]

    def stop(self, reason: str) -> None:
        """End it: cancelled, or superseded. A payload that runs has its grace. Idempotent."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if not self._execution.stop() and self._task is not None:
            self._task.cancel()

    async def run(self) -> JobCompletion:
        """Take the attempt to its end and say how it ended. Leaves no process; to be written down, then told."""
        self._clock.end("wait_s")
        outcome, cause = await self._guard(self._pipeline())
        if outcome is not Outcome.DONE:
            self._stage_out.keep_streams(self._execution.streams, large=outcome is not Outcome.CANCELLED)
        return await self._conclude(outcome, cause)

    async def resume(self, conclusion: Conclusion) -> JobCompletion:
        """Take it to its end from where an agent before us had written down that it ended."""
        told = conclusion.completion
        self._boot_id = told.boot_id
        self._clock.steps = told.steps
        self._execution.exit_status, self._execution.usage = told.exit_status, told.usage
        self._stage_out.take_up(conclusion)
        return await self._conclude(told.outcome, told.cause)

    def give_back(self) -> JobCompletion:
        """End it before it has begun, for another slot to run it; one that was stopped has been cancelled."""
        if self.stopped is not None:
            return self._completion(Outcome.CANCELLED, self.stopped)
        return self._completion(Outcome.RETURNED, "given back: the job before it in its slot takes long")

    def report_lost(self, past: Past) -> JobCompletion | None:
        """Say that it was lost, if an agent before us had begun it and not written down an end; else None."""
        if not past.begun and self._sandbox.name not in self._resources.found:
            return None
        before = self._resources.boot_before
        if past.begun and before != self._resources.boot_id:
            self._boot_id = before
            return self._completion(Outcome.LOST, "the VM went down while it ran")
        if self._sandbox.name not in self._resources.found:
            return None  # written down ahead of its turn, which did not come
        return self._completion(Outcome.LOST, "the guest agent was restarted while it ran")

    async def write_down(self, completion: JobCompletion, *, within_s: float = 0.0) -> None:
        """Make its end durable, with others that end ``within_s``: until then nobody is told. A disk that is full is
        made room on, and tried again."""
        conclusion = self._stage_out.conclusion(msgspec.structs.replace(completion, request=None))
        for wait_s in backoff(0.2, 20.0):
            try:
                await self._resources.journal.conclude(self.assign.id, conclusion, within_s=within_s)
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
        self._stage_out.keep_only_left()
        if not self._stage_out.left:
            self._stage_out.discard()
        self._resources.cache.make_room(1 << 62)

    def discard(self) -> None:
        """Remove its files: how it ended is written down. Idempotent; blocking."""
        self._sandbox.remove()
        self._stage_out.discard()

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
            return Outcome.LOST, f"{self.phase}: {error.strerror}: {error.filename or self._sandbox.name}"
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
        self._refuse_stopped()
        try:
            self.phase = Phase.STAGE_IN
            await self._stage_in.run()
            self._clock.end("stage_in_s")
            self.phase = Phase.RUNNING
            await self._execution.run(self._sandbox.directory)
            self._clock.end("run_s")
            self._refuse_stopped()
            if self.assign.validation:
                self.phase = Phase.VALIDATING
                await self._execution.validate(self._sandbox.directory)
                self._clock.end("validate_s")
                self._refuse_stopped()
            self.phase = Phase.STAGE_OUT
            self._sandbox.take_back()
            await self._stage_out.collect(self._sandbox.directory, self._execution.streams, self._execution.disk_bytes)
        finally:
            self._execution.leave()
            await self._sandbox.leave()

    def _refuse_stopped(self) -> None:
        if self.stopped is not None:
            raise AttemptFailed(Outcome.CANCELLED, self.stopped)

    async def _conclude(self, outcome: Outcome, cause: str) -> JobCompletion:
        """Store what is yet to be stored, after it was written down how it ended."""
        self.phase = Phase.STAGE_OUT
        if self._stage_out.left:
            await asyncio.to_thread(self._stage_out.keep_only_left)
            await self.write_down(self._completion(outcome, cause))
            stored, why = await self._guard(self._stage_out.store_left())
            if stored is not Outcome.DONE and (outcome is Outcome.DONE or stored is Outcome.CANCELLED):
                outcome, cause = stored, why
            elif stored is not Outcome.DONE:
                log.warning("streams not kept", extra={"job": self.assign.job, "why": why})
        self._clock.end("stage_out_s")
        return self._completion(outcome, cause)

    def _completion(self, outcome: Outcome, cause: str) -> JobCompletion:
        return JobCompletion(
            job=self.assign.job,
            attempt=self.assign.attempt,
            outcome=outcome,
            exit_status=self._execution.exit_status,
            cause=cause,
            usage=self._execution.usage,
            steps=self._clock.steps,
            outputs=self._stage_out.entries,
            boot_id=self._boot_id,
        )
