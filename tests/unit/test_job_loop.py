"""The job loop with real payloads and an uplink that keeps what is said: what runs, what is given back, what asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.memory import MemoryCarrier
from broker.rpc import Call, ServerClock, Uplink
from guest_agent import slot_worker
from guest_agent.job_loop import JobLoop, Timing
from guest_agent.wall_clock import WallClock
from schemas.envelope import Message, Reply
from schemas.jobs import (
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
)
from tests.broker.polling import until
from tests.unit import guests

ADAPTER = "adapter-job-1"
MACHINE = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="p")


def order(message: Message) -> tuple[Call, Any]:
    """What a handler is called with."""
    return Call(None, message, ADAPTER), message


class Up(Uplink):
    """An uplink whose every completion counts, and that says nothing to anybody."""

    def __init__(self) -> None:
        super().__init__(MemoryCarrier("vm-a"), lambda: 1)
        self.beats = 0
        self.last_beat = ""
        self.requests: list[JobRequest] = []
        self.withdrawn: list[int] = []
        self.completions: list[JobCompletion] = []
        self.hurries: list[bool] = []

    async def say(self, kind: str, message: Message, **_: Any) -> None:
        if isinstance(message, JobRequest):
            self.requests.append(message)
        elif isinstance(message, JobBeat):
            self.beats, self.last_beat = self.beats + 1, message.id
        elif isinstance(message, JobWithdraw):
            self.withdrawn += message.slots
        elif isinstance(message, JobCompletion):
            self.completions.append(message)

    async def ask_batched(self, kind: str, message: Message, *, timeout_s: float, within_s: float) -> Reply:
        assert isinstance(message, JobCompletion)
        self.completions.append(message)
        self.hurries.append(not within_s)
        return JobCompletionAnswer(call=message.id, job=message.job, attempt=message.attempt, counted=True)

    def ended(self) -> dict[str, Outcome]:
        return {completion.job: completion.outcome for completion in self.completions}


class Guest:
    """A guest of one slot, and what it is told."""

    def __init__(self, directory: Path, wall_clock: WallClock | None = None) -> None:
        self.up = Up()
        self.at = guests.Guest(directory)
        self.journal = self.at.journal
        self.loop = JobLoop(
            self.up,
            self.at.resources,
            slots=1,
            machine=lambda: MACHINE,
            clock=ServerClock(),
            store=lambda output: self.at.store,
            timing=Timing(),
            wall_clock=wall_clock or WallClock(is_ours=False),
        )

    async def assign(self, number: int, *command: str, slot: int = 0, **fields: Any) -> str:
        job = JobAssign(
            job=f"site-a/j.{number}", attempt=1, slot=slot, executable=command[0], arguments=list(command[1:]), **fields
        )
        await self.loop.assign(*order(job))
        return job.id


@asynccontextmanager
async def running(directory: Path, wall_clock: WallClock | None = None) -> AsyncIterator[Guest]:
    guest = Guest(directory, wall_clock)
    task = asyncio.create_task(guest.loop.run())
    try:
        yield guest
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        guest.at.close()


async def test_short_jobs_run_in_their_order_and_their_slot_asks_for_more_each_time(tmp_path: Path) -> None:
    async with running(tmp_path) as guest:
        for number in range(1, 6):
            await guest.assign(number, "true", slot=number - 1)
        await until(lambda: len(guest.up.completions) == 5)

        assert [completion.job for completion in guest.up.completions] == [f"site-a/j.{n}" for n in range(1, 6)]
        assert set(guest.up.ended().values()) == {Outcome.DONE}
        assert len(guest.loop._workers[0].slot.asked) > 1
        await until(lambda: guest.loop.holding() == [] and len(guest.journal.ended) == 5)


async def test_a_machine_that_was_away_asks_the_time_at_once_and_begins_no_job_before_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(time, "clock_settime", lambda clock, to_s: None)
    clock = WallClock()
    clock.follow(int(time.time() * 1000), 0.0)
    async with running(tmp_path, clock) as guest:
        await until(lambda: guest.up.beats == 1)
        before = guest.up.last_beat
        clock.doubt()
        await guest.assign(1, "true")
        late = JobBeatAnswer(call=before, server_time_ms=1)
        await guest.loop.handlers()[JobBeatAnswer].run(*order(late))
        await until(lambda: guest.up.beats > 1)
        waits = guest.up.completions == [] and len(guest.loop.holding()) == 1

        answer = JobBeatAnswer(call=guest.up.last_beat, server_time_ms=int(time.time() * 1000))
        await guest.loop.handlers()[JobBeatAnswer].run(*order(answer))
        await until(lambda: guest.up.completions)

        assert waits
        assert guest.up.ended() == {"site-a/j.1": Outcome.DONE}


async def test_a_job_that_is_stopped_while_the_clock_is_in_doubt_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    clock = WallClock()
    async with running(tmp_path, clock) as guest:
        await guest.assign(1, "touch", str(tmp_path / "begun"))
        await guest.loop.stop(*order(JobStop(job="site-a/j.1", attempt=1, reason="cancelled")))
        await until(lambda: guest.up.completions)

        assert guest.up.ended() == {"site-a/j.1": Outcome.CANCELLED}
        assert not (tmp_path / "begun").exists()


async def test_a_completion_waits_for_company_only_while_its_slot_has_more_to_do(tmp_path: Path) -> None:
    async with running(tmp_path) as guest:
        for number in (1, 2, 3):
            await guest.assign(number, "true", slot=number)
        await until(lambda: len(guest.up.completions) == 3)

        assert guest.up.hurries[-1]
        said = zip(guest.up.hurries, guest.up.completions, strict=True)
        assert all(hurry or completion.request is None for hurry, completion in said)


async def test_jobs_behind_a_long_one_and_those_that_come_meanwhile_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_worker, "LOOK_AFTER_S", (0.05,))
    monkeypatch.setattr("guest_agent.slot.PATIENCE_S", 0.05)
    async with running(tmp_path) as guest:
        await guest.assign(1, "sleep", "60")
        await guest.assign(2, "true", slot=1)
        await guest.assign(3, "true", slot=2)
        await until(lambda: len(guest.up.completions) == 2)
        await guest.assign(4, "true", slot=3)
        await until(lambda: len(guest.up.completions) == 3)

        assert guest.up.ended() == dict.fromkeys((f"site-a/j.{n}" for n in (2, 3, 4)), Outcome.RETURNED)
        assert {completion.exit_status for completion in guest.up.completions} == {-1}
        assert [held.job for held in guest.loop.holding()] == ["site-a/j.1"]
        await until(lambda: [path.name for path in guest.at.slot_directory.work.iterdir()] == ["site-a_j.1.1"])


async def test_a_job_that_is_stopped_while_it_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as guest:
        await guest.assign(1, "sleep", "60")
        await guest.assign(2, "true", slot=1)
        await guest.loop.stop(*order(JobStop(job="site-a/j.2", attempt=1, reason="enough")))
        await until(lambda: len(guest.up.completions) == 1)

        assert guest.up.ended() == {"site-a/j.2": Outcome.CANCELLED}
        assert [held.job for held in guest.loop.holding()] == ["site-a/j.1"]


async def test_a_slot_whose_only_job_is_stopped_before_it_begins_asks_again(tmp_path: Path) -> None:
    async with running(tmp_path) as guest:
        await until(lambda: len(guest.up.requests) == 1)
        await guest.assign(1, "true")
        await guest.loop.stop(*order(JobStop(job="site-a/j.1", attempt=1, reason="enough")))
        await until(lambda: len(guest.up.requests) == 2)

        assert guest.up.requests[1].slot == 0


async def test_a_new_link_asks_again_for_what_a_busy_slot_has_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as guest:
        for number in range(1, 9):
            await guest.assign(number, "true", slot=number)
        await until(lambda: len(guest.up.completions) == 8)
        await guest.assign(9, "sleep", "60")
        asked = {lane for worker in guest.loop._workers for lane in worker.slot.asked}
        before = len(guest.up.requests)
        guest.loop.ask_all()
        await until(lambda: len(guest.up.requests) > before)

        again = guest.up.requests[-1]
        assert {again.slot, *again.more} == asked != set()
