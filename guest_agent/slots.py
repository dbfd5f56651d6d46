"""The job loop: free slots ask for work, assignments run, completions are sent until they are answered.

A slot takes jobs ahead while its jobs are short, so that a fast job does not wait for the wire; should one of them take
long after all, those behind it are given back, and what was asked for is withdrawn. A stop that overtakes its
assignment wins. What counts as done is the ledger's to say: a completion's answer ends it here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from broker.errors import NotDelivered
from broker.rpc import Call, Handler, ServerClock, Uplink
from guest_agent.attempt import Attempt
from guest_agent.beginnings import Beginnings
from guest_agent.book import Conclusion, Past
from guest_agent.container import Container
from guest_agent.endings import GATHER_S, Endings
from guest_agent.errors import NotContained
from guest_agent.machine import load
from guest_agent.room import Room, Store
from guest_agent.slot import PATIENCE_S, TELLING_S, Slot
from schemas.envelope import Failed, Message, Reply
from schemas.files import OutputFile
from schemas.ids import Kind
from schemas.jobs import (
    MOST_LANES,
    AttemptRef,
    JobAssign,
    JobBeat,
    JobBeatAnswer,
    JobCompletion,
    JobCompletionAnswer,
    JobRequest,
    JobStop,
    JobWithdraw,
    Machine,
    Outcome,
    Phase,
)

log = logging.getLogger(__name__)

#: When a slot looks whether its job takes longer than what it took ahead allows for, seconds.
LOOK_AFTER_S = (TELLING_S, PATIENCE_S)
#: A job that is shorter is one line of the log, its end, which says how long it ran, seconds. A line is a 20th of what
#: such a job costs the agent.
TELL_AFTER_S = 0.02
#: Slot numbers that the wire has.
SLOT_NUMBERS = 1024
#: An answer to a beat that took no longer than this tells the time, seconds.
FRESH_S = 2.0
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
        room: Room,
        *,
        slots: int,
        machine: Callable[[], Machine],
        clock: ServerClock,
        store: Callable[[OutputFile], Store],
        timing: Timing,
        refused: Callable[[], dict[str, int]] = dict,
        on_time: Callable[[int], None] = lambda server_time_ms: None,
    ) -> None:
        self._uplink, self._room, self._store = uplink, room, store
        self._machine, self._clock = machine, clock
        self._timing = timing
        self._refused = refused
        self._on_time = on_time
        #: The newest beat, and when it was sent: an answer that took long tells an old time.
        self._beat = ("", 0.0)
        lanes = max(1, min(MOST_LANES, SLOT_NUMBERS // slots))
        self._slots = [Slot(range(slot, slots * lanes, slots)) for slot in range(slots)]
        self._come = [asyncio.Event() for _ in range(slots)]
        self._held: dict[Key, Attempt] = {}
        self._tombstones: dict[Key, str] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._facts = machine()
        self._endings = Endings(uplink, room, self._forget, self._spawn)
        self._beginnings = Beginnings(room, self._endings, self._spawn)

    def handlers(self) -> dict[type[Message], Handler]:
        """What this room takes from adapters."""
        adapter = frozenset({Kind.ADAPTER})
        return {
            JobAssign: Handler(
                run=self.assign, senders=adapter, ends_elsewhere=True, repeatable=True, interrupted=self.leave
            ),
            JobStop: Handler(run=self.stop, senders=adapter, repeatable=True),
            JobBeatAnswer: Handler(run=self._on_beat_answer, senders=adapter),
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
                for slot, come in zip(self._slots, self._come, strict=True):
                    group.create_task(self._work(slot, come), name=f"slot {slot.lanes[0]}")
                group.create_task(self._beats(), name="beats")
                group.create_task(self._repair(), name="requests again")
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def ask_all(self) -> None:
        """Ask anew for what every slot has asked for: the connection is new, or the generation, and with an older one's
        end its requests have gone."""
        busy = {self._slot_of(attempt.assign) for attempt in self._held.values()}
        for number, slot in enumerate(self._slots):
            if lanes := slot.asked or ([number] if slot.is_ready and number not in busy else []):
                self._ask(slot, lanes)

    async def assign(self, call: Call, message: JobAssign) -> Reply | None:
        """Take an assignment. What an agent before us had ended is told, what it had only begun is reported lost, and
        what was stopped before it came is cancelled."""
        number = self._slot_of(message)
        attempt = Attempt(message, number, self._room, self._store(_output_of(message)))
        key = (message.job, message.attempt)
        if key in self._held:
            return None
        self._held[key] = attempt
        slot = self._slots[number]
        slot.serve(message.slot)
        past = self._room.book.past(message.id)
        if (ended := self._end_of(attempt, past)) is not None:
            self._spawn(ended)
            return None
        if key in self._tombstones:
            attempt.stop(self._tombstones.pop(key))
        slot.at_hand.append(attempt)
        self._come[number].set()
        self._give_back(slot)
        return None

    async def leave(self, call: Call, message: JobAssign) -> Reply | None:
        """Give back an assignment of an earlier boot, which must not go on: what had ended is told, what had begun is
        reported lost."""
        attempt = Attempt(message, self._slot_of(message), self._room, self._store(_output_of(message)))
        self._held[message.job, message.attempt] = attempt
        ended = self._end_of(attempt, self._room.book.past(message.id))
        if ended is None:
            left = msgspec.structs.replace(attempt.give_back(), cause="given back: assigned to an earlier boot")
            ended = self._endings.complete(attempt, left)
        self._spawn(ended)
        return None

    async def stop(self, call: Call, message: JobStop) -> Reply | None:
        """End an attempt. One that is not here is answered as cancelled, and stays so should it still come."""
        key = (message.job, message.attempt)
        held = self._held.get(key)
        if held is not None:
            held.stop(message.reason)
            self._drop_stopped(self._slots[self._slot_of(held.assign)])
            return None
        self._tombstones[key] = message.reason
        while len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.pop(next(iter(self._tombstones)))
        await self._uplink.say(
            "completion",
            JobCompletion(job=message.job, attempt=message.attempt, outcome=Outcome.CANCELLED, cause=message.reason),
        )
        return None

    def _end_of(self, attempt: Attempt, past: Past) -> Awaitable[None] | None:
        """Give what is to be done with an attempt that has its end behind it; None for one that has not begun."""
        if past.conclusion is not None:
            return self._go_on(attempt, past.conclusion)
        lost = attempt.report_lost(past)
        return None if lost is None else self._endings.complete(attempt, lost)

    async def _go_on(self, attempt: Attempt, conclusion: Conclusion) -> None:
        await self._endings.complete(attempt, await attempt.resume(conclusion))

    def _forget(self, attempt: Attempt) -> None:
        self._held.pop((attempt.assign.job, attempt.assign.attempt), None)

    def _slot_of(self, assign: JobAssign) -> int:
        return assign.slot % len(self._slots)

    async def _work(self, slot: Slot, come: asyncio.Event) -> None:
        """Run a slot's jobs one by one, once it has its container: what that is, its requests say."""
        await self._prepare(self._room.containers[slot.lanes[0]])
        self._facts = self._machine()
        slot.is_ready = True
        self._ask(slot, slot.lanes[:1])
        while True:
            while not slot.at_hand:
                come.clear()
                await come.wait()
            attempt = slot.at_hand.popleft()
            told = asyncio.get_running_loop().call_later(TELL_AFTER_S, _tell_begin, attempt)
            completion = await self._run(slot, attempt)
            told.cancel()
            log.info("job ended", extra=_named(attempt) | _how(completion))
            lanes = slot.wanted()
            if lanes:
                completion = msgspec.structs.replace(completion, request=self._request(slot, lanes))
            attempt.phase = Phase.STAGE_OUT
            in_a_hurry = lanes or not slot.at_hand
            self._spawn(self._endings.complete(attempt, completion, within_s=0.0 if in_a_hurry else GATHER_S))

    async def _prepare(self, container: Container) -> None:
        """Have the warden before the first job comes; that one cannot be had is told again by each job."""
        try:
            await container.open()
        except (NotContained, OSError) as error:
            log.error("no warden", extra={"slot": str(container.quarters.directory), "why": str(error)})
        else:
            slot = container.quarters.directory.name
            log.info("payloads are held together", extra={"slot": slot, "by": container.kind})

    async def _run(self, slot: Slot, attempt: Attempt) -> JobCompletion:
        """Run one job. Should it take long, those that wait behind it and those still to come are given back."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timers = [loop.call_later(after_s, self._learn, slot, after_s) for after_s in LOOK_AFTER_S]
        slot.busy = 1
        if lanes := slot.wanted():
            self._ask(slot, lanes)
        try:
            await self._beginnings.begin(slot, attempt)
            return await attempt.run()
        finally:
            slot.busy = 0
            for timer in timers:
                timer.cancel()
            self._learn(slot, loop.time() - began)

    def _learn(self, slot: Slot, took_s: float) -> None:
        slot.learn(took_s)
        self._give_back(slot)
        if lanes := slot.unwanted():
            self._spawn(self._uplink.say("request", JobWithdraw(slots=lanes)))

    def _drop_stopped(self, slot: Slot) -> None:
        """End at once what was stopped before its turn."""
        for attempt in [one for one in slot.at_hand if one.stopped is not None]:
            slot.at_hand.remove(attempt)
            self._spawn(self._endings.complete(attempt, attempt.give_back()))
        if slot.is_ready and slot.is_idle and (lanes := slot.wanted()):
            self._ask(slot, lanes)

    def _give_back(self, slot: Slot) -> None:
        for attempt in slot.surplus():
            self._spawn(self._endings.complete(attempt, attempt.give_back(), within_s=GATHER_S))

    def _request(self, slot: Slot, lanes: Sequence[int]) -> JobRequest:
        request = JobRequest(
            slot=lanes[0],
            more=list(lanes[1:]),
            ahead=slot.ahead,
            machine=self._facts,
            holding=self.holding(),
            generation=self._uplink.generation,
        )
        slot.ask(lanes)
        return request

    def _ask(self, slot: Slot, lanes: Sequence[int]) -> None:
        self._spawn(self._uplink.say("request", self._request(slot, lanes)))

    async def _beats(self) -> None:
        while True:
            self._facts = await asyncio.to_thread(self._machine)
            holding = [attempt.holding() for attempt in self._held.values()]
            beat = JobBeat(holding=holding, load=load(), refused=self._refused())
            self._beat = (beat.id, time.monotonic())
            try:
                await self._uplink.say("beat", beat, persistent=False)
            except NotDelivered as error:
                log.warning("beat not delivered", extra={"why": str(error)})
            await asyncio.sleep(self._timing.beat_s)

    async def _repair(self) -> None:
        """Say requests again that found nothing: should one have been lost, this mends it."""
        while True:
            await asyncio.sleep(self._timing.request_again_s)
            for slot in filter(lambda each: each.is_ready, self._slots):
                if lanes := slot.asked or slot.wanted():
                    self._ask(slot, lanes)

    async def _on_beat_answer(self, call: Call, message: JobBeatAnswer) -> Reply | None:
        self._clock.learn(message.server_time_ms)
        newest, sent_s = self._beat
        if message.call == newest and time.monotonic() - sent_s < FRESH_S:
            self._on_time(message.server_time_ms)
        for ref in message.stop:
            held = self._held.get((ref.job, ref.attempt))
            if held is not None:
                held.stop("superseded or cancelled at the centre")
                self._drop_stopped(self._slots[self._slot_of(held.assign)])
        return None

    async def _on_answer(self, call: Call, message: Reply) -> Reply | None:
        if not self._uplink.on_answer(message) and isinstance(message, Failed):
            log.warning("refused by the centre", extra={"call": message.call, "why": message.message})
        return None

    def _spawn(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("job loop: a step failed", exc_info=task.exception())


def _named(attempt: Attempt) -> dict[str, object]:
    return {"job": attempt.assign.job, "attempt": attempt.assign.attempt}


def _tell_begin(attempt: Attempt) -> None:
    log.info("job begins", extra=_named(attempt))


def _how(completion: JobCompletion) -> dict[str, object]:
    """Say how an attempt ended, and how long its payload ran; why, where it did not end well."""
    why = {"why": completion.cause} if completion.cause else {}
    run_s = round(completion.steps.run_s, 3)
    return {"outcome": str(completion.outcome), "exit_status": completion.exit_status, "run_s": run_s} | why


def _output_of(message: JobAssign) -> OutputFile:
    """The store's name for the attempt's outputs; ``name`` is filled in for each."""
    return OutputFile(job=message.job, attempt=message.attempt, name="stdout")
