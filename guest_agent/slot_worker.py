"""A slot at work: its jobs run one by one, what they bring ends at the centre, what it has too much of is given back.

A slot takes jobs ahead while its jobs are short, so that a fast job does not wait for the wire; should one of them take
long after all, those behind it are given back, and what was asked for is withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Never

import msgspec

from broker.daemon.tasks import OwnedTasks
from guest_agent.attempt import Attempt
from guest_agent.completions import GATHER_S, Completions
from guest_agent.container import Container
from guest_agent.errors import NotContained
from guest_agent.launcher import Launcher
from guest_agent.requests import Requests
from guest_agent.slot import PATIENCE_S, TELLING_S, Slot
from guest_agent.wall_clock import WallClock
from schemas.jobs import JobCompletion, Phase

log = logging.getLogger(__name__)

#: When a slot looks whether its job takes longer than what it took ahead allows for, seconds.
LOOK_AFTER_S = (TELLING_S, PATIENCE_S)
#: A job that is shorter is one line of the log, its end, which says how long it ran, seconds. A line is a 20th of what
#: such a job costs the agent.
TELL_AFTER_S = 0.02


class SlotWorker:
    """See the module. ``run`` until cancelled; ``tasks`` owns completions on their way."""

    def __init__(
        self,
        slot: Slot,
        container: Container,
        requests: Requests,
        launcher: Launcher,
        completions: Completions,
        tasks: OwnedTasks,
        wall_clock: WallClock,
    ) -> None:
        self.slot = slot
        self._container, self._requests = container, requests
        self._launcher, self._completions = launcher, completions
        self._tasks, self._wall_clock = tasks, wall_clock
        self._come = asyncio.Event()

    async def run(self) -> Never:
        """Run the slot's jobs one by one, once it has its container: what that is, its requests say. A machine that was
        away begins none before its clock is right."""
        await self._prepare()
        self._requests.look()
        self.slot.is_ready = True
        self._requests.say(self.slot, self.slot.lanes[:1])
        while True:
            while not self.slot.at_hand:
                self._come.clear()
                await self._come.wait()
            await self._wall_clock.wait_sure()
            if self.slot.at_hand:
                await self._work_off(self.slot.at_hand.popleft())

    def take(self, attempt: Attempt) -> None:
        """Take an assignment in; what would wait for too long is given back."""
        self.slot.at_hand.append(attempt)
        self._come.set()
        self._give_back()

    def ask(self) -> None:
        """Ask for what is lacking, if anything is."""
        if lanes := self.slot.wanted():
            self._requests.say(self.slot, lanes)

    def ask_again(self) -> None:
        """Say again what was asked for and did not come, or else ask for what is lacking."""
        if self.slot.is_ready and (lanes := self.slot.asked or self.slot.wanted()):
            self._requests.say(self.slot, lanes)

    def ask_anew(self, *, is_busy: bool) -> None:
        """Ask for what was asked for of a centre that has forgotten it."""
        idle = self.slot.lanes[:1] if self.slot.is_ready and not is_busy else []
        if lanes := self.slot.asked or idle:
            self._requests.say(self.slot, lanes)

    def drop_stopped(self) -> None:
        """End at once what was stopped before its turn."""
        for attempt in [one for one in self.slot.at_hand if one.stopped is not None]:
            self.slot.at_hand.remove(attempt)
            self._tasks.spawn(self._completions.complete(attempt, attempt.give_back()))
        if self.slot.is_ready and self.slot.is_idle:
            self.ask()

    async def _prepare(self) -> None:
        """Have the starter before the first job comes; that one cannot be had is told again by each job."""
        directory = self._container.slot_directory.path
        try:
            await self._container.open()
        except (NotContained, OSError) as error:
            log.error("no starter", extra={"slot": str(directory), "why": str(error)})
        else:
            log.info("payloads are held together", extra={"slot": directory.name, "by": self._container.kind})

    async def _work_off(self, attempt: Attempt) -> None:
        """Run one job, and have its end told; that it ends asks for the next one in the same message."""
        told = asyncio.get_running_loop().call_later(TELL_AFTER_S, _tell_begin, attempt)
        completion = await self._run(attempt)
        told.cancel()
        log.info("job ended", extra=_named(attempt) | _how(completion))
        lanes = self.slot.wanted()
        if lanes:
            completion = msgspec.structs.replace(completion, request=self._requests.make(self.slot, lanes))
        attempt.phase = Phase.STAGE_OUT
        in_a_hurry = lanes or not self.slot.at_hand
        self._tasks.spawn(self._completions.complete(attempt, completion, within_s=0.0 if in_a_hurry else GATHER_S))

    async def _run(self, attempt: Attempt) -> JobCompletion:
        """Run one job. Should it take long, those that wait behind it and those still to come are given back."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timers = [loop.call_later(after_s, self._learn, after_s) for after_s in LOOK_AFTER_S]
        self.slot.busy = 1
        self.ask()
        try:
            await self._launcher.begin(self.slot, attempt)
            return await attempt.run()
        finally:
            self.slot.busy = 0
            for timer in timers:
                timer.cancel()
            self._learn(loop.time() - began)

    def _learn(self, took_s: float) -> None:
        self.slot.learn(took_s)
        self._give_back()
        if lanes := self.slot.unwanted():
            self._requests.withdraw(lanes)

    def _give_back(self) -> None:
        for attempt in self.slot.surplus():
            self._tasks.spawn(self._completions.complete(attempt, attempt.give_back(), within_s=GATHER_S))


def _named(attempt: Attempt) -> dict[str, object]:
    return {"job": attempt.assign.job, "attempt": attempt.assign.attempt}


def _tell_begin(attempt: Attempt) -> None:
    log.info("job begins", extra=_named(attempt))


def _how(completion: JobCompletion) -> dict[str, object]:
    """Say how an attempt ended, and how long its payload ran; why, where it did not end well."""
    why = {"why": completion.cause} if completion.cause else {}
    run_s = round(completion.steps.run_s, 3)
    return {"outcome": str(completion.outcome), "exit_status": completion.exit_status, "run_s": run_s} | why
