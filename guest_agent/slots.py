"""The job loop: free slots ask for work, assignments run, completions are sent until they are answered.

A slot takes jobs ahead while its payloads are short, so that a fast job does not wait for the wire. A stop that
overtakes its assignment wins. What counts as done is the ledger's to say: a completion's answer ends it here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from broker.backoff import backoff
from broker.errors import CallTimeout, NotDelivered, RemoteError
from broker.rpc import Call, Handler, ServerClock, Uplink
from guest_agent.attempt import Attempt, Room, Store
from guest_agent.machine import load
from schemas.envelope import Failed, Message, Reply
from schemas.files import OutputFile
from schemas.jobs import (
    AttemptRef,
    JobAssign,
    JobBeat,
    JobBeatAnswer,
    JobCompletion,
    JobCompletionAnswer,
    JobRequest,
    JobStop,
    Machine,
    Outcome,
    Phase,
)

log = logging.getLogger(__name__)

#: Jobs that a slot has at hand, by how long its last payload ran: at most, seconds; the first that fits counts. The
#: way of a job over the wire and through the ledger takes some 20 ms (see docs), which short payloads would wait for.
DEPTHS = ((0.05, 8), (5.0, 2))
#: A slot asks under so many slot numbers, one request each: its own, and its own plus multiples of the slots' number.
LANES = 8
#: How long a completion waits for its answer before it is sent again, seconds.
ANSWER_S = 30.0
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
        end: Callable[[str], Awaitable[None]],
        timing: Timing,
        refused: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self._uplink, self._room, self._store = uplink, room, store
        self._machine, self._clock, self._end = machine, clock, end
        self._timing = timing
        self._refused = refused
        self._queues: list[asyncio.Queue[Attempt]] = [asyncio.Queue() for _ in range(slots)]
        #: Request that stands, by lane; lane modulo slots is the slot.
        self._asked: list[str | None] = [None] * (slots * LANES)
        self._depths = [1] * slots
        self._held: dict[Key, Attempt] = {}
        self._tombstones: dict[Key, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._facts = machine()

    def handlers(self) -> dict[type[Message], Handler]:
        """What this room takes from adapters."""
        adapter = frozenset({"adapter"})
        return {
            JobAssign: Handler(run=self.assign, senders=adapter, ends_elsewhere=True, repeatable=True),
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
                for slot in range(len(self._queues)):
                    group.create_task(self._slot(slot), name=f"slot {slot}")
                group.create_task(self._beats(), name="beats")
                group.create_task(self._repair(), name="requests again")
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def ask_all(self) -> None:
        """Ask anew for every slot that has nothing at hand: the connection is new, or the generation."""
        for slot in range(len(self._queues)):
            if not any(a.assign.slot % len(self._queues) == slot for a in self._held.values()):
                self._ask(slot)

    async def assign(self, call: Call, message: JobAssign) -> Reply | None:
        """Take an assignment. One that an agent before us had begun is reported lost, one already stopped cancelled."""
        slot = message.slot % len(self._queues)
        attempt = Attempt(message, slot, self._room, self._store(_output_of(message)))
        key = (message.job, message.attempt)
        if key in self._held:
            return None
        self._held[key] = attempt
        self._asked[message.slot % len(self._asked)] = None
        lost = attempt.bury()
        if lost is not None:
            self._spawn(self._complete(attempt, lost))
            return None
        if key in self._tombstones:
            attempt.stop(self._tombstones.pop(key))
        self._queues[slot].put_nowait(attempt)
        return None

    async def stop(self, call: Call, message: JobStop) -> Reply | None:
        """End an attempt. One that is not here is answered as cancelled, and stays so should it still come."""
        key = (message.job, message.attempt)
        held = self._held.get(key)
        if held is not None:
            held.stop(message.reason)
            return None
        self._tombstones[key] = message.reason
        while len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.pop(next(iter(self._tombstones)))
        await self._uplink.say(
            "completion",
            JobCompletion(job=message.job, attempt=message.attempt, outcome=Outcome.CANCELLED, cause=message.reason),
        )
        return None

    async def _slot(self, slot: int) -> None:
        self._ask(slot)
        while True:
            attempt = await self._queues[slot].get()
            for lane in self._wanted(slot, busy=1):
                self._ask(lane)
            completion = await attempt.run()
            self._depths[slot] = next((d for limit_s, d in DEPTHS if attempt.run_seconds < limit_s), 1)
            lanes = self._wanted(slot, busy=0)
            if lanes:
                completion = msgspec.structs.replace(completion, request=self._request(lanes[0]))
            attempt.phase = Phase.STAGE_OUT
            self._spawn(self._complete(attempt, completion))

    def _wanted(self, slot: int, *, busy: int) -> list[int]:
        """List the lanes to ask on, so that with what is asked for already the slot will have enough at hand."""
        lanes = range(slot, len(self._asked), len(self._queues))
        free = [lane for lane in lanes if self._asked[lane] is None]
        coming = len(lanes) - len(free)
        return free[: max(0, self._depths[slot] - busy - coming - self._queues[slot].qsize())]

    def _request(self, lane: int) -> JobRequest:
        request = JobRequest(slot=lane, machine=self._facts, holding=self.holding(), generation=self._uplink.generation)
        self._asked[lane] = request.id
        return request

    def _ask(self, lane: int) -> None:
        self._spawn(self._uplink.say("request", self._request(lane)))

    async def _complete(self, attempt: Attempt, completion: JobCompletion) -> None:
        """Send a completion until the ledger has answered it, then forget the attempt."""
        for wait_s in backoff(0.5, 20.0):
            try:
                answer = await self._uplink.ask("completion", completion, timeout_s=ANSWER_S)
            except (CallTimeout, NotDelivered) as error:
                attempt.trouble = f"completion: {error}"
            except RemoteError as error:
                attempt.trouble = f"completion: {error}"
                await asyncio.sleep(wait_s)
            else:
                self._note_answer(attempt, answer)
                break
        await self._end(attempt.assign.id)
        self._held.pop((attempt.assign.job, attempt.assign.attempt), None)
        await asyncio.to_thread(attempt.discard)

    def _note_answer(self, attempt: Attempt, answer: Reply) -> None:
        if isinstance(answer, JobCompletionAnswer) and not answer.counted:
            log.info("completion did not count", extra={"job": attempt.assign.job, "why": answer.reason})

    async def _beats(self) -> None:
        while True:
            self._facts = await asyncio.to_thread(self._machine)
            holding = [attempt.holding() for attempt in self._held.values()]
            try:
                await self._uplink.say(
                    "beat", JobBeat(holding=holding, load=load(), refused=self._refused()), persistent=False
                )
            except NotDelivered as error:
                log.warning("beat not delivered", extra={"why": str(error)})
            await asyncio.sleep(self._timing.beat_s)

    async def _repair(self) -> None:
        """Say requests again that found nothing: should one have been lost, this mends it."""
        while True:
            await asyncio.sleep(self._timing.request_again_s)
            for lane, asked in enumerate(self._asked):
                if asked is not None:
                    self._ask(lane)

    async def _on_beat_answer(self, call: Call, message: JobBeatAnswer) -> Reply | None:
        self._clock.learn(message.server_time_ms)
        for ref in message.stop:
            held = self._held.get((ref.job, ref.attempt))
            if held is not None:
                held.stop("superseded or cancelled at the centre")
        return None

    async def _on_answer(self, call: Call, message: Reply) -> Reply | None:
        self._uplink.on_answer(message)
        return None

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("job loop: a step failed", exc_info=task.exception())


def _output_of(message: JobAssign) -> OutputFile:
    """The store's name for the attempt's outputs; ``name`` is filled in for each."""
    return OutputFile(job=message.job, attempt=message.attempt, name="stdout")
