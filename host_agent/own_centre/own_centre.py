"""A host as the centre of one of its guests: answers what a guest asks any centre, for the one job that it has for it.

A guest is a stranger: what it says is believed of its own job and nothing else, and what no guest says to its centre is
an offence on its road.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from broker.delivery import Delivery
from broker.inbound import Refusal, recall, take_in
from broker.outbound import body_of, send
from broker.road import Road
from broker.routes import UP, down, queue_of
from broker.token_buckets import TokenBuckets
from host_agent.errors import JobRefused
from host_agent.own_centre.guest_job import GuestJobEnd
from host_agent.own_centre.heard_job import HeardJob
from host_agent.own_centre.job_order import JobOrder
from host_agent.own_centre.storage import GuestFiles, OwnStorage
from schemas.description import Input
from schemas.envelope import Message
from schemas.errors import DecodeError
from schemas.jobs import (
    AgentHello,
    Holding,
    JobAssign,
    JobBeat,
    JobBeatAnswer,
    JobCompletion,
    JobCompletionAnswer,
    JobRequest,
    JobWithdraw,
    Outcome,
)

log = logging.getLogger(__name__)

#: What a guest says to its centre, as the ends of keys.
KINDS = ("request", "beat", "completion", "offer")
#: A link is so old before it counts what a guest does not hold, seconds: its journal may be at it.
SETTLED_S = 5.0
#: Words of a guest that are answered: so many at once, and a second.
WORDS, WORDS_PER_S = 60, 5.0


class OwnCentre:
    """See the module. ``on_change`` is called when an attempt of the job has ended."""

    def __init__(self, vm: str, me: str, order: JobOrder, inputs: list[Input], files: GuestFiles) -> None:
        """``inputs`` is what the job is given, as an assignment has it."""
        self._vm, self._me, self._order, self._inputs, self._files = vm, me, order, inputs, files
        self.on_change: Callable[[], None] = lambda: None
        self.heard = HeardJob(order.job.ref, files)
        #: What the guest's agent can; None before it has said so.
        self.features: frozenset[str] | None = None
        #: Why the job does not go on here, in words; empty while it does.
        self.trouble = ""
        self._road: Road | None = None
        self._storage: OwnStorage | None = None
        self._asking: int | None = None
        self._up_s = time.monotonic()
        self._assigned: asyncio.Future[None] | None = None
        self._words = TokenBuckets(WORDS, WORDS_PER_S)

    @property
    def holding(self) -> Holding | None:
        """What the guest has said of the job last."""
        return self.heard.holding

    @property
    def end(self) -> GuestJobEnd | None:
        """How the job ended; None while it has not."""
        return self._order.end

    async def meet(self, road: Road) -> None:
        """Be the centre by this road from now on; before it begins."""
        self._road, self._storage = road, OwnStorage(self._vm, road, self._files)
        road.on_up.append(self._on_up)
        for kind in KINDS:
            await road.consume(
                f"{self._vm}.{kind}", self._on_delivery, bind_to=(UP, f"{self._vm}.{kind}"), bundles=True
            )
        await road.consume(f"{queue_of(self._me)}.files", self._storage.on_delivery)

    async def leave(self) -> None:
        """The road is left: what was asked for by it is void. Idempotent."""
        storage, self._storage, self._road = self._storage, None, None
        self._asking = self._assigned = self.heard.holding = None
        if storage is not None:
            await storage.close()

    def _on_up(self) -> None:
        self._asking = self._assigned = self.heard.holding = None
        self._up_s = time.monotonic()
        if self._storage is not None:
            self._storage.begin_anew()

    def _on_delivery(self, delivery: Delivery) -> None:
        letter = take_in(delivery)
        delivery.ack()
        if self._road is None:
            return
        if isinstance(letter, Refusal):
            self._road.offend(letter.reason)
        elif not self._words.take("", time.monotonic()):
            self._road.offend("more words than are answered")
        else:
            self._take(self._road, letter.message)

    def _take(self, road: Road, message: Message) -> None:
        try:
            self._answer(road, message)
        except OSError as error:
            # It says so again: a completion until it is answered, all else with the next beat.
            self.trouble = f"what the guest does cannot be written down: {error}"
            log.error("%s", self.trouble)

    def _answer(self, road: Road, message: Message) -> None:
        match message:
            case JobRequest():
                self._asking, self.features = message.slot, frozenset(message.machine.features)
                self._assign(road)
            case AgentHello():
                # The next beat says in what state is what it holds.
                self.features = frozenset(message.machine.features)
            case JobWithdraw():
                self._asking = None
            case JobBeat():
                self._on_beat(road, message)
            case JobCompletion():
                self._on_completion(road, message)
            case _:
                road.offend("what no guest tells its centre")

    def _on_beat(self, road: Road, beat: JobBeat) -> None:
        is_there = self._assigned is None or _succeeded(self._assigned)
        stop = self._order.look(beat.holding, counts=is_there and time.monotonic() - self._up_s > SETTLED_S)
        ours = [one for one in beat.holding if one.attempt == self._order.attempt and one.job == self._order.job.ref]
        self.heard.hear(ours[0] if ours else None)
        answer = JobBeatAnswer(call=beat.id, server_time_ms=_now_ms(), stop=stop)
        self._say(road, self.heard.wishes(answer, self._order.attempt))
        self._assign(road)
        self.trouble = ""

    def _on_completion(self, road: Road, completion: JobCompletion) -> None:
        is_whole = completion.outcome is not Outcome.DONE or all(map(self._files.is_here, completion.outputs))
        if not is_whole and self._order.is_open_to(completion):
            log.warning("the guest says that it is done, and has not sent all that it has made: it does it again")
            # As good as lost: what counts is answered with its own id, whatever is made of it.
            cause = "it said that it was done, and had not sent its outputs"
            completion = msgspec.structs.replace(completion, outcome=Outcome.LOST, outputs=[], cause=cause)
        counted = self._order.conclude(completion)
        answer = JobCompletionAnswer(
            call=completion.id,
            server_time_ms=_now_ms(),
            job=completion.job,
            attempt=completion.attempt,
            counted=counted,
            reason="" if counted else "superseded, or no job of this guest",
        )
        self._say(road, answer)
        if counted:
            self.heard.holding = None
        if completion.request is not None:
            self._asking = completion.request.slot
            self._assign(road)
        self.on_change()

    def _assign(self, road: Road) -> None:
        """Hand the job out, if it is due and the guest asks."""
        if self._asking is None or not self._order.is_due():
            return
        attempt, slot = self._order.hand_out(), self._asking
        self._asking = None
        self._assigned = self._say(road, self._assignment(attempt, slot))
        log.info("the guest is given its job, attempt %d", attempt)

    def check(self) -> None:
        """Raise JobRefused where the job is none that a guest could read."""
        try:
            recall(body_of(self._assignment(1, 0)))
        except DecodeError as error:
            raise JobRefused(f"the job for the guest: {error}") from error

    def _assignment(self, attempt: int, slot: int) -> JobAssign:
        job = self._order.job
        return JobAssign(
            target=self._vm,
            job=job.ref,
            attempt=attempt,
            slot=slot,
            executable=job.executable,
            arguments=list(job.arguments),
            environment=job.environment,
            inputs=self._inputs,
            outputs=list(job.outputs),
            wall_time_s=job.wall_time_s,
            grace_s=job.grace_s,
            tells=list(job.tells),
        )

    def _say(self, road: Road, message: Message) -> asyncio.Future[None]:
        return send(road, down(self._vm), message)


def _succeeded(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _now_ms() -> int:
    return int(time.time() * 1000)
