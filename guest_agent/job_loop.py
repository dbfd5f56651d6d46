"""The job loop: free slots ask for work, assignments run, completions are sent until they are answered.

A stop that overtakes its assignment wins. What counts as done is the ledger's to say: a completion's answer ends it
here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from broker.daemon.tasks import OwnedTasks
from broker.rpc import Call, Handler, ServerClock, Uplink
from guest_agent.attempt import Attempt
from guest_agent.attempt_journal import Conclusion, Past
from guest_agent.beats import JobBeats
from guest_agent.completions import Completions
from guest_agent.launcher import Launcher
from guest_agent.requests import Requests
from guest_agent.resources import Resources, Store
from guest_agent.slot import Slot
from guest_agent.slot_worker import SlotWorker
from guest_agent.told_files import FileWishes
from guest_agent.wall_clock import WallClock
from schemas.envelope import Failed, Message, Reply
from schemas.files import OutputFile
from schemas.ids import Kind
from schemas.jobs import (
    MOST_LANES,
    AttemptRef,
    JobAssign,
    JobBeatAnswer,
    JobCompletion,
    JobCompletionAnswer,
    JobStop,
    Machine,
    Outcome,
)

log = logging.getLogger(__name__)

#: Slot numbers that the wire has.
SLOT_NUMBERS = 1024
#: Stops kept in case their assignment is yet to come.
MOST_TOMBSTONES = 1000

Key = tuple[str, int]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How often the loop speaks, seconds."""

    beat_s: float = 15.0
    #: A request is said again after this long, as repair.
    request_again_s: float = 300.0


class JobLoop:
    """See the module."""

    def __init__(
        self,
        uplink: Uplink,
        resources: Resources,
        *,
        slots: int,
        machine: Callable[[], Machine],
        clock: ServerClock,
        store: Callable[[OutputFile], Store],
        timing: Timing,
        refused: Callable[[], dict[str, int]] = dict,
        wall_clock: WallClock,
    ) -> None:
        self._uplink, self._resources, self._store = uplink, resources, store
        self._timing = timing
        self._held: dict[Key, Attempt] = {}
        self._tombstones: dict[Key, str] = {}
        self._tasks = OwnedTasks("job loop")
        requests = Requests(uplink, machine, self.holding, self._tasks)
        self._completions = Completions(uplink, resources, self._forget, self._tasks)
        launcher = Launcher(resources, self._completions, self._tasks)
        lanes = max(1, min(MOST_LANES, SLOT_NUMBERS // slots))
        self._workers = [
            SlotWorker(
                Slot(range(slot, slots * lanes, slots)),
                resources.containers[slot],
                requests,
                launcher,
                self._completions,
                self._tasks,
                wall_clock,
            )
            for slot in range(slots)
        ]
        self._beats = JobBeats(
            uplink,
            requests,
            clock,
            holding=lambda: [attempt.holding() for attempt in self._held.values()],
            stop=self._on_stop_of_beat,
            wish=self._on_wishes,
            refused=refused,
            wall_clock=wall_clock,
        )

    def handlers(self) -> dict[type[Message], Handler]:
        """What is taken from adapters."""
        adapter = frozenset({Kind.ADAPTER})
        return {
            JobAssign: Handler(
                run=self.assign, senders=adapter, ends_elsewhere=True, repeatable=True, interrupted=self.give_back
            ),
            JobStop: Handler(run=self.stop, senders=adapter, repeatable=True),
            JobBeatAnswer: Handler(run=self._beats.on_answer, senders=adapter),
            JobCompletionAnswer: Handler(run=self._on_answer, senders=adapter),
            Failed: Handler(run=self._on_answer, senders=adapter),
        }

    def holding(self) -> list[AttemptRef]:
        """Name the attempts that this guest holds."""
        return [AttemptRef(job=job, attempt=attempt) for job, attempt in self._held]

    async def run(self) -> None:
        """Ask, work and beat until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number, worker in enumerate(self._workers):
                    group.create_task(worker.run(), name=f"slot {number}")
                group.create_task(self._beats.run(self._timing.beat_s), name="beats")
                group.create_task(self._repair(), name="requests again")
        finally:
            await self._tasks.cancel()

    def ask_all(self) -> None:
        """Ask anew for what every slot has asked for: the connection is new, or the generation, and with an older one's
        end its requests have gone."""
        busy = {self._worker_of(attempt.assign) for attempt in self._held.values()}
        for worker in self._workers:
            worker.ask_anew(is_busy=worker in busy)

    async def assign(self, call: Call, message: JobAssign) -> Reply | None:
        """Take an assignment. What an agent before us had ended is told, what it had only begun is reported lost, and
        what was stopped before it came is cancelled."""
        attempt = self._new(message)
        key = (message.job, message.attempt)
        if key in self._held:
            return None
        self._held[key] = attempt
        worker = self._worker_of(message)
        worker.slot.serve(message.slot)
        past = self._resources.journal.past(message.id)
        if (ended := self._end_of(attempt, past)) is not None:
            self._tasks.spawn(ended)
            return None
        if key in self._tombstones:
            attempt.stop(self._tombstones.pop(key))
        worker.take(attempt)
        return None

    async def give_back(self, call: Call, message: JobAssign) -> Reply | None:
        """Give back an assignment of an earlier boot, which must not go on: what had ended is told, what had begun is
        reported lost."""
        attempt = self._new(message)
        self._held[message.job, message.attempt] = attempt
        ended = self._end_of(attempt, self._resources.journal.past(message.id))
        if ended is None:
            left = msgspec.structs.replace(attempt.give_back(), cause="given back: assigned to an earlier boot")
            ended = self._completions.complete(attempt, left)
        self._tasks.spawn(ended)
        return None

    async def stop(self, call: Call, message: JobStop) -> Reply | None:
        """End an attempt. One that is not here is answered as cancelled, and stays so should it still come."""
        key = (message.job, message.attempt)
        held = self._held.get(key)
        if held is not None:
            self._stop(held, message.reason)
            return None
        self._tombstones[key] = message.reason
        while len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.pop(next(iter(self._tombstones)))
        await self._uplink.say(
            "completion",
            JobCompletion(job=message.job, attempt=message.attempt, outcome=Outcome.CANCELLED, cause=message.reason),
        )
        return None

    def _end_of(self, attempt: Attempt, past: Past) -> Coroutine[Any, Any, None] | None:
        """Give what is to be done with an attempt that has its end behind it; None for one that has not begun."""
        if past.conclusion is not None:
            return self._resume(attempt, past.conclusion)
        lost = attempt.report_lost(past)
        return None if lost is None else self._completions.complete(attempt, lost)

    async def _resume(self, attempt: Attempt, conclusion: Conclusion) -> None:
        await self._completions.complete(attempt, await attempt.resume(conclusion))

    def _forget(self, attempt: Attempt) -> None:
        self._held.pop((attempt.assign.job, attempt.assign.attempt), None)

    def _new(self, assign: JobAssign) -> Attempt:
        output = OutputFile(job=assign.job, attempt=assign.attempt, name="stdout")  # the name is filled in for each
        return Attempt(assign, assign.slot % len(self._workers), self._resources, self._store(output))

    def _worker_of(self, assign: JobAssign) -> SlotWorker:
        return self._workers[assign.slot % len(self._workers)]

    def _stop(self, held: Attempt, reason: str) -> None:
        held.stop(reason)
        self._worker_of(held.assign).drop_stopped()

    def _on_stop_of_beat(self, ref: AttemptRef) -> None:
        held = self._held.get((ref.job, ref.attempt))
        if held is not None:
            self._stop(held, "superseded or cancelled at the centre")

    def _on_wishes(self, wishes: FileWishes) -> None:
        for key in {(one.job, one.attempt) for each in wishes for one in each} & self._held.keys():
            for work in self._held[key].on_wishes(wishes.of(*key)):
                self._tasks.spawn(work)

    async def _repair(self) -> None:
        """Say requests again that found nothing: should one have been lost, this mends it."""
        while True:
            await asyncio.sleep(self._timing.request_again_s)
            for worker in self._workers:
                worker.ask_again()

    async def _on_answer(self, call: Call, message: Reply) -> Reply | None:
        if not self._uplink.on_answer(message) and isinstance(message, Failed):
            log.warning("refused by the centre", extra={"call": message.call, "why": message.message})
        return None
