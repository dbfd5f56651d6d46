"""What a guest writes down of its attempts: what is durable before what, and what the next agent makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.memory import MemoryCarrier
from broker.rpc import Call, Journal, ServerClock, Uplink
from guest_agent import leftovers
from guest_agent.attempt_journal import AttemptJournal, Conclusion
from guest_agent.job_loop import JobLoop, Timing
from guest_agent.wall_clock import WallClock
from schemas.codec import encode
from schemas.description import Output
from schemas.envelope import Message, Reply
from schemas.jobs import JobAssign, JobCompletion, JobCompletionAnswer, Machine, Outcome
from tests.broker.polling import until
from tests.unit.guests import Guest, content_of

MACHINE = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="p")


class Up(Uplink):
    """An uplink that answers completions, or none; notes what was durable when one was sent."""

    def __init__(self, agent: Agent, *, answers: bool) -> None:
        super().__init__(MemoryCarrier("vm-a"), lambda: 1)
        self._agent, self._answers = agent, answers
        self.completions: list[JobCompletion] = []
        self.durable: list[bool] = []

    async def say(self, kind: str, message: Message, **_: Any) -> None:
        pass

    async def ask_batched(self, kind: str, message: Message, *, timeout_s: float, within_s: float) -> Reply:
        assert isinstance(message, JobCompletion)
        self.durable.append(self._agent.is_written(message))
        self.completions.append(message)
        if not self._answers:
            await asyncio.sleep(3600)
        return JobCompletionAnswer(call=message.id, job=message.job, attempt=message.attempt, counted=True)


class Syncs(AttemptJournal):
    """The real one, counting how often it is written to."""

    begins = 0

    async def begin(self, commands: Sequence[str]) -> None:
        self.begins += 1
        await super().begin(commands)


class Agent:
    """A guest agent without a broker: real journal, real payloads, one slot, in one directory."""

    def __init__(self, directory: Path, *, boot: str = "boot", answers: bool = True) -> None:
        self.journal_file = directory / "journal"
        self.journal = Journal(self.journal_file)
        self.journal.open()
        self.attempts = Syncs(self.journal)
        note = directory / "boot"
        before = note.read_text() if note.exists() else boot
        (directory / "jobs").mkdir(exist_ok=True)
        past = self.attempts.unanswered()
        found = leftovers.find_begun(directory / "jobs", directory / "begun", past, is_new_boot=before != boot)
        unstored = [assign for assign, known in past if known.conclusion is not None]
        leftovers.set_aside(directory / "jobs", directory / "aside", unstored)
        note.write_text(boot)
        self.at = Guest(directory, journal=self.attempts, boot_id=boot, boot_before=before, found=found)
        self.up = Up(self, answers=answers)
        self.loop = JobLoop(
            self.up,
            self.at.resources,
            slots=1,
            machine=lambda: MACHINE,
            clock=ServerClock(),
            store=lambda output: self.at.store,
            timing=Timing(),
            wall_clock=WallClock(is_ours=False),
        )

    def is_written(self, message: JobCompletion) -> bool:
        """Say whether the file of the journal has this end in it now."""
        return encode(msgspec.structs.replace(message, request=None)) in self.journal_file.read_bytes()

    async def assign(self, job: JobAssign) -> None:
        if self.journal.get(job.id) is None:
            await self.journal.accept(job.id, "adapter-a", encode(job))
        await self.loop.assign(Call(None, job, "adapter-a"), job)

    async def recover(self) -> None:
        for job, _ in self.attempts.unanswered():
            await self.loop.assign(Call(None, job, "adapter-a"), job)


def job(number: int, *command: str, **fields: Any) -> JobAssign:
    fields = {"grace_s": 1.0, "slot": 0, **fields}
    return JobAssign(job=f"site-a/j.{number}", attempt=1, executable=command[0], arguments=list(command[1:]), **fields)


@asynccontextmanager
async def running(directory: Path, **options: Any) -> AsyncIterator[Agent]:
    """Have an agent, which ends without a word to anybody."""
    agent = Agent(directory, **options)
    task = asyncio.create_task(agent.loop.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        agent.at.close()
        await agent.journal.close()


async def test_no_payload_begins_before_it_is_durable_that_it_does(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        gate, begin = asyncio.Event(), agent.attempts.begin

        async def slow(commands: Sequence[str]) -> None:
            await gate.wait()
            await begin(commands)

        agent.attempts.begin = slow  # type: ignore[method-assign]
        await agent.assign(job(1, "touch", str(tmp_path / "ran")))
        await asyncio.sleep(0.3)
        assert not (tmp_path / "ran").exists()

        gate.set()
        await until(lambda: agent.up.completions != [])
        assert (tmp_path / "ran").exists()


async def test_short_jobs_share_their_syncs(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        for number in range(1, 41):
            await agent.assign(job(number, "true", slot=number - 1))
        await until(lambda: len(agent.up.completions) == 40, 60)

        assert agent.attempts.begins < 30


async def test_a_completion_is_durable_before_anybody_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await agent.assign(job(1, "sh", "-c", "exit 7"))
        await until(lambda: agent.up.completions != [])

        assert agent.up.durable == [True]


async def test_what_had_ended_is_told_by_the_next_agent_as_it_ended(tmp_path: Path) -> None:
    command = job(
        1, "sh", "-c", f"echo ran >> {tmp_path}/runs; echo said; echo out > out", outputs=[Output(name="out")]
    )
    async with running(tmp_path, answers=False) as before:
        await before.assign(command)
        await until(lambda: before.up.completions != [])

    async with running(tmp_path, boot="another boot") as after:
        await after.recover()
        await until(lambda: after.up.completions != [])
        await until(lambda: after.loop.holding() == [])

    (told,) = after.up.completions
    assert (told.outcome, told.request) == (Outcome.DONE, None)
    assert (content_of(told, "stdout"), content_of(told, "out")) == (b"said\n", b"out\n")
    assert told.boot_id == "boot"
    assert (tmp_path / "runs").read_text() == "ran\n"


async def test_outputs_that_were_being_stored_are_stored_by_the_next_agent(tmp_path: Path) -> None:
    script = f"echo ran >> {tmp_path}/runs; head -c 200000 /dev/zero > big; head -c 100000 /dev/zero; exit 0"
    async with running(tmp_path) as before:
        before.at.full_for = 1 << 30
        await before.assign(job(1, "sh", "-c", script, outputs=[Output(name="big")]))
        await until(lambda: any(held.trouble for held in (a.holding() for a in before.loop._held.values())))

    async with running(tmp_path) as after:
        await after.recover()
        await until(lambda: after.up.completions != [])
        await until(lambda: list((tmp_path / "jobs" / "slot-0" / "work").iterdir()) == [])

    assert after.up.completions[0].outcome == Outcome.DONE
    assert {name: len(content) for name, content in after.at.stored.items()} == {"big": 200_000, "stdout": 100_000}
    assert (tmp_path / "runs").read_text() == "ran\n"


@pytest.mark.parametrize(
    ("boot", "said"), [("boot", "the guest agent was restarted while it ran"), ("2nd", "the VM went down while it ran")]
)
async def test_what_had_begun_is_lost_and_not_run_again(tmp_path: Path, boot: str, said: str) -> None:
    command = job(1, "sh", "-c", f"echo ran >> {tmp_path}/runs; sleep 600")
    async with running(tmp_path) as before:
        await before.assign(command)
        await until(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text() != "")

    async with running(tmp_path, boot=boot) as after:
        await after.recover()
        await until(lambda: after.up.completions != [])

    (told,) = after.up.completions
    assert (told.outcome, told.cause, told.boot_id) == (Outcome.LOST, said, "boot")
    assert (tmp_path / "runs").read_text() == "ran\n"


@pytest.mark.parametrize("boots", [("boot", "boot"), ("2nd", "2nd"), ("2nd", "3rd")])
async def test_what_had_begun_is_lost_though_an_agent_in_between_was_killed_before_it_said_so(
    tmp_path: Path, boots: tuple[str, str]
) -> None:
    """The next agent once moved away what it had seen, and the one after that saw nothing and ran the payload again."""
    async with running(tmp_path) as before:
        await before.assign(job(1, "sh", "-c", f"echo ran >> {tmp_path}/runs; sleep 600"))
        await until(lambda: (tmp_path / "runs").exists() and (tmp_path / "runs").read_text() != "")
    async with running(tmp_path, boot=boots[0]):
        pass

    async with running(tmp_path, boot=boots[1]) as last:
        await last.recover()
        await until(lambda: last.up.completions != [])
        await until(lambda: last.loop.holding() == [])
    async with running(tmp_path, boot=boots[1]):
        assert list((tmp_path / "begun").iterdir()) == []

    assert [told.outcome for told in last.up.completions] == [Outcome.LOST]
    assert (tmp_path / "runs").read_text() == "ran\n"


async def test_what_was_written_down_ahead_of_its_turn_is_run_by_the_next_agent_of_the_same_boot(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as before:
        command = job(1, "true")
        await before.journal.accept(command.id, "adapter-a", encode(command))
        await before.attempts.begin([command.id])

    async with running(tmp_path) as after:
        await after.recover()
        await until(lambda: after.up.completions != [])

    assert after.up.completions[0].outcome == Outcome.DONE


async def test_a_disk_that_is_full_delays_what_is_told_and_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        conclude, full = agent.attempts.conclude, [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "journal")]

        async def stumbling(command: str, conclusion: Conclusion, *, within_s: float = 0.0) -> None:
            if full:
                raise full.pop()
            await conclude(command, conclusion, within_s=within_s)

        agent.attempts.conclude = stumbling  # type: ignore[method-assign]
        await agent.assign(job(1, "true"))
        await until(lambda: agent.up.completions != [])

    assert (agent.up.completions[0].outcome, full) == (Outcome.DONE, [])


async def test_what_has_ended_while_the_disk_took_no_word_of_it_is_lost_and_not_run_again(tmp_path: Path) -> None:
    """Its directory once went to make room for that word; the next agent then saw nothing of it."""
    async with running(tmp_path) as before:

        async def refuse(command: str, conclusion: Conclusion, *, within_s: float = 0.0) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "journal")

        before.attempts.conclude = refuse  # type: ignore[method-assign]
        await before.assign(job(1, "sh", "-c", f"echo ran >> {tmp_path}/runs; touch leftover"))
        await until(lambda: any(held.trouble for held in (a.holding() for a in before.loop._held.values())))
        await until(lambda: [*before.at.slot_directory.work.rglob("leftover")] == [])

    async with running(tmp_path) as after:
        await after.recover()
        await until(lambda: after.up.completions != [])

    assert [told.outcome for told in after.up.completions] == [Outcome.LOST]
    assert (tmp_path / "runs").read_text() == "ran\n"


async def test_what_was_given_back_is_not_run_by_an_agent_that_comes_after(tmp_path: Path) -> None:
    async with running(tmp_path, answers=False) as before:
        await before.assign(job(1, "sleep", "600"))
        await until(lambda: [*before.at.slot_directory.work.iterdir()] != [])
        await before.assign(job(2, "touch", str(tmp_path / "ran"), slot=1))
        waiting = before.loop._held["site-a/j.2", 1]
        before.loop._workers[0].slot.at_hand.remove(waiting)
        before.loop._tasks.spawn(before.loop._completions.complete(waiting, waiting.give_back()))
        await until(lambda: before.up.completions != [])

    async with running(tmp_path) as after:
        await after.recover()
        await until(lambda: len(after.up.completions) == 2)

    assert {told.job: told.outcome for told in after.up.completions} == {
        "site-a/j.1": Outcome.LOST,
        "site-a/j.2": Outcome.RETURNED,
    }
    assert not (tmp_path / "ran").exists()


def test_a_note_of_another_version_counts_as_none(tmp_path: Path) -> None:
    from guest_agent.attempt_journal import _read

    assert _read(b"\x93\x01\x02\x03") is None
    assert _read(msgspec.msgpack.encode([b"no message", [], []])) is None
