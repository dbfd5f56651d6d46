"""Batches under way, beside a centre that is played: what goes wrong with one job costs the calls of that job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.errors import RemoteError
from schemas.errors import ErrorCode
from schemas.ledger import SETTLED, JobRow, Jobs, JobState
from tests.broker.polling import until
from volcloud.client.shown import JobPage
from volcloud.errors import CallFailed, NoSuchJob, Unreachable
from volcloud.executor import call_centre, homecoming
from volcloud.executor.batch import Batch, Chunk
from volcloud.executor.call_centre import CallCentre
from volcloud.executor.call_files import Terms
from volcloud.executor.dispatch import Dispatch

PATIENCE_S = 30.0
TERMS = Terms(
    python="python3", requirements={}, environment={}, files=(), wall_time_s=60.0, priority=0, trust_guests=False,
    keep=False, most_result_bytes=1 << 20,
)  # fmt: skip


class PlayedJobs:
    """A centre's jobs: by index the state, and what its output gives or raises."""

    def __init__(self) -> None:
        self.states: dict[int, JobState] = {}
        self.outputs: dict[int, Any] = {}
        self.said: list[str] = []
        #: What the next questions of a kind raise, in order.
        self.troubles: dict[str, list[Exception]] = {}
        self.batch = ""

    def _trouble(self, what: str) -> None:
        if waiting := self.troubles.get(what):
            raise waiting.pop(0)

    async def submit(self, description: dict[str, Any]) -> None:
        self._trouble("submit")
        assert all(Path(one["path"]).is_file() for one in description["inputs"])
        self.batch = description["id"]
        self.states = dict.fromkeys(range(1, description["array"] + 1), JobState.RUNNING) | self.states
        self.said.append("submit")

    async def list(self, *, owner: str, job: str, states: Any = (), limit: int) -> JobPage:
        self._trouble("list")
        wanted = {*states} or {*JobState}
        rows = [
            JobRow(number=index, job=f"{owner}/{job}.{index}", state=state, attempt=1)
            for index, state in self.states.items()
            if state in wanted
        ]
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.state] = counts.get(row.state, 0) + 1
        return JobPage.of(Jobs(call="c", jobs=rows[:limit], counts=counts))

    async def why(self, job: str) -> Any:
        self._trouble("why")
        return SimpleNamespace(state="held", cause="exit status 3", waiting_for=[], next_step="")

    async def output(self, job: str, name: str, *, most_bytes: int) -> bytes:
        found = self.outputs.get(int(job.rpartition(".")[2]), NoSuchJob(f"{job} has no output"))
        if name == "stderr":
            return b"oh\x1b[2J no\n"
        if isinstance(found, Exception):
            raise found
        return json.dumps({"calls": [{"value": found}]}).encode()

    async def cancel(self, name: str) -> None:
        self._trouble("cancel")
        self.said.append(f"cancel {name.removeprefix(f'me/{self.batch}')}")

    async def delete(self, name: str) -> None:
        self._trouble("delete")
        self.said.append(f"delete {name.removeprefix(f'me/{self.batch}')}")


@pytest.fixture
def jobs() -> PlayedJobs:
    return PlayedJobs()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def dispatch(jobs: PlayedJobs, told: list[str], tmp_path: Path) -> AsyncIterator[Dispatch]:
    client = cast(Any, SimpleNamespace(jobs=jobs, user="me"))
    one = Dispatch(CallCentre(client, told.append), TERMS, tmp_path)
    await one.open()
    yield one
    await one.close()


def batch_of(dispatch: Dispatch, chunks: int) -> Batch:
    return Batch(b"", [Chunk(b"calls", 1, dispatch.look_soon) for _ in range(chunks)])


async def ended(batch: Batch, *indices: int) -> None:
    """Wait until calls have ended."""
    await until(lambda: all(batch.chunks[index - 1].futures[0].done() for index in indices), PATIENCE_S)


def result(batch: Batch, index: int) -> Any:
    return batch.chunks[index - 1].futures[0].result(0)


async def test_a_guest_that_says_done_and_left_nothing_costs_its_own_call(
    dispatch: Dispatch, jobs: PlayedJobs, tmp_path: Path
) -> None:
    batch = batch_of(dispatch, 3)
    jobs.outputs = {1: "good"}
    dispatch.begin(batch)
    await until(lambda: batch.is_submitted, PATIENCE_S)
    jobs.states |= {1: JobState.DONE, 2: JobState.DONE}
    await ended(batch, 1, 2)

    assert result(batch, 1) == "good"
    with pytest.raises(CallFailed, match=r"cannot be brought home: .* has no output"):
        result(batch, 2)
    jobs.states[3], jobs.outputs[3] = JobState.DONE, "late"
    await ended(batch, 3)
    assert result(batch, 3) == "late"
    await dispatch.finish()
    assert jobs.said == ["submit", "cancel ", "delete "]
    assert [path.name for path in tmp_path.iterdir()] == ["call.pyz"]


async def test_a_slow_result_holds_up_no_other_and_no_cancel(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    slow, other = batch_of(dispatch, 1), batch_of(dispatch, 2)
    gate = asyncio.Event()
    quick = jobs.output

    async def output(job: str, name: str, *, most_bytes: int) -> bytes:
        if job.startswith(f"me/{slow.id}"):
            await gate.wait()
        return await quick(job, name, most_bytes=most_bytes)

    jobs.output = output  # type: ignore[method-assign]
    jobs.outputs = {1: 1, 2: 2}
    dispatch.begin(slow)
    dispatch.begin(other)
    await until(lambda: slow.is_submitted and other.is_submitted, PATIENCE_S)
    jobs.states[1] = JobState.DONE
    await ended(other, 1)
    other.chunks[1].futures[0].cancel()
    await until(lambda: other.is_done, PATIENCE_S)
    assert (result(other, 1), slow.is_done) == (1, False)
    gate.set()
    await ended(slow, 1)
    assert result(slow, 1) == 1


AWAY, INTERNAL = Unreachable("away", ""), RemoteError(ErrorCode.INTERNAL, "the ledger restarts")


@pytest.mark.parametrize(
    ("what", "trouble"),
    [
        ("submit", AWAY), ("list", AWAY), ("cancel", AWAY), ("delete", AWAY),
        ("list", INTERNAL), ("cancel", INTERNAL), ("delete", INTERNAL),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)  # fmt: skip
async def test_a_centre_that_is_away_for_a_while_costs_time(
    dispatch: Dispatch, jobs: PlayedJobs, told: list[str], what: str, trouble: Exception
) -> None:
    batch = batch_of(dispatch, 1)
    jobs.troubles = {what: [trouble, trouble]}
    jobs.states, jobs.outputs = {1: JobState.DONE}, {1: 7}
    dispatch.begin(batch)
    await ended(batch, 1)
    await dispatch.finish()

    assert result(batch, 1) == 7
    assert told
    assert all("\x1b" not in one for one in told)


@pytest.mark.parametrize(
    "error", [TypeError("of ours"), OSError(28, "No space left on device"), NoSuchJob("no")], ids=str
)
async def test_what_cannot_be_sent_is_told_to_its_calls(dispatch: Dispatch, jobs: PlayedJobs, error: Exception) -> None:
    batch = batch_of(dispatch, 2)
    jobs.troubles = {"submit": [error]}
    dispatch.begin(batch)
    await ended(batch, 1, 2)

    with pytest.raises(Exception, match=str(error).replace("[", r"\[")):
        result(batch, 1)
    await dispatch.finish()


async def test_a_result_that_cannot_be_had_now_is_had_later(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    batch = batch_of(dispatch, 1)
    jobs.states, jobs.outputs = {1: JobState.DONE}, {1: OSError(28, "No space left on device")}
    dispatch.begin(batch)
    await until(lambda: batch.chunks[0].failed_since_s is not None, PATIENCE_S)
    jobs.outputs[1] = "now"
    await ended(batch, 1)

    assert result(batch, 1) == "now"


async def test_after_a_while_it_is_given_up_in_words(
    dispatch: Dispatch, jobs: PlayedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homecoming, "HOME_S", 0.1)
    batch = batch_of(dispatch, 1)
    jobs.states, jobs.outputs = {1: JobState.DONE}, {1: OSError(28, "No space left on device")}
    dispatch.begin(batch)
    await ended(batch, 1)

    with pytest.raises(CallFailed, match=r"cannot be brought home: .*No space left"):
        result(batch, 1)


async def test_a_job_that_failed_is_told_with_what_it_said(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    batch = batch_of(dispatch, 1)
    jobs.states = {1: JobState.HELD}
    dispatch.begin(batch)
    await ended(batch, 1)

    with pytest.raises(CallFailed, match=r"is held: exit status 3; it said:\noh.*no") as failed:
        result(batch, 1)
    assert "\x1b" not in str(failed.value)


async def test_one_that_failed_and_is_gone_before_it_is_asked_why_says_so(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    jobs.states, jobs.troubles = {1: JobState.CANCELLED}, {"why": [NoSuchJob("no such job")]}
    batch = batch_of(dispatch, 1)
    dispatch.begin(batch)
    await ended(batch, 1)

    with pytest.raises(CallFailed, match="is cancelled, and not at the centre any more: somebody has deleted it"):
        result(batch, 1)


async def test_one_that_is_gone_at_the_centre_ends_its_call(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    batch = batch_of(dispatch, 2)
    jobs.outputs = {1: 1}
    dispatch.begin(batch)
    await until(lambda: batch.is_submitted, PATIENCE_S)
    del jobs.states[2]
    await ended(batch, 2)

    with pytest.raises(CallFailed, match="not at the centre any more"):
        result(batch, 2)
    jobs.states[1] = JobState.DONE
    await ended(batch, 1)


async def test_what_is_cancelled_before_it_is_sent_is_not_waited_for(
    dispatch: Dispatch, jobs: PlayedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_centre, "PUT_AWAY_S", 0.1)
    batch = batch_of(dispatch, 2)
    jobs.troubles = {"submit": [Unreachable("away", "")] * 1000, "cancel": [Unreachable("away", "")] * 1000}
    dispatch.begin(batch)
    for chunk in batch.chunks:
        chunk.futures[0].cancel()
    async with asyncio.timeout(30):
        await dispatch.finish()
    assert not dispatch._sending

    jobs.troubles, jobs.states, jobs.outputs = {}, {1: JobState.DONE}, {1: "later"}
    later = batch_of(dispatch, 1)
    dispatch.begin(later)
    await ended(later, 1)
    assert (jobs.batch, jobs.said.count("submit")) == (later.id, 1)


async def test_what_is_cancelled_while_it_goes_out_is_ended_once_the_centre_has_it(
    dispatch: Dispatch, jobs: PlayedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_going, may_arrive, submit = asyncio.Event(), asyncio.Event(), jobs.submit

    async def slowly(description: dict[str, Any]) -> None:
        is_going.set()
        await may_arrive.wait()
        await submit(description)

    monkeypatch.setattr(jobs, "submit", slowly)
    batch = batch_of(dispatch, 1)
    dispatch.begin(batch)
    await is_going.wait()
    batch.chunks[0].futures[0].cancel()
    finishing = asyncio.create_task(dispatch.finish())
    await until(lambda: batch.is_done, PATIENCE_S)
    assert jobs.said == []
    may_arrive.set()
    async with asyncio.timeout(PATIENCE_S):
        await finishing

    assert jobs.said == ["submit", "cancel ", "delete "]


async def test_one_that_may_still_be_taken_is_named(
    dispatch: Dispatch, jobs: PlayedJobs, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_centre, "PUT_AWAY_S", 0.1)
    monkeypatch.setattr(jobs, "submit", lambda _: asyncio.Event().wait())
    batch = batch_of(dispatch, 1)
    dispatch.begin(batch)
    await until(lambda: batch.is_going, PATIENCE_S)
    batch.chunks[0].futures[0].cancel()
    async with asyncio.timeout(PATIENCE_S):
        await dispatch.finish()

    assert f"me/{batch.id} may still be taken, and nobody wants it: delete it" in told


async def test_a_centre_that_goes_away_holds_up_no_cancel(
    dispatch: Dispatch, jobs: PlayedJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_centre, "PUT_AWAY_S", 0.1)
    batch = batch_of(dispatch, 2)
    dispatch.begin(batch)
    await until(lambda: batch.is_submitted, PATIENCE_S)
    jobs.troubles = {what: [Unreachable("away", "")] * 10_000 for what in ("list", "cancel", "delete")}
    await until(lambda: dispatch._looks, PATIENCE_S)
    for chunk in batch.chunks:
        chunk.futures[0].cancel()
    async with asyncio.timeout(PATIENCE_S):
        await dispatch.finish()

    assert dispatch.under_way == 0
    assert all(chunk.futures[0].cancelled() for chunk in batch.chunks)
    assert jobs.said == ["submit"]


async def test_a_callback_that_ends_the_program_leaves_no_future_that_nobody_hears_of() -> None:
    told: list[str] = []
    chunk = Chunk(b"calls", 1, lambda: told.append("cancelled"))

    def leave(_: object) -> None:
        raise KeyboardInterrupt

    chunk.futures[0].add_done_callback(leave)
    with pytest.raises(KeyboardInterrupt):
        chunk.futures[0].cancel()

    assert told == ["cancelled"]
    assert wait([chunk.futures[0]], timeout=5).done == {chunk.futures[0]}


async def test_some_that_are_cancelled_are_cancelled_one_by_one(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    batch = batch_of(dispatch, 3)
    dispatch.begin(batch)
    await until(lambda: batch.is_submitted, PATIENCE_S)
    batch.chunks[1].futures[0].cancel()
    await until(lambda: "cancel .2" in jobs.said, PATIENCE_S)
    for index in (0, 2):
        batch.chunks[index].futures[0].cancel()
    await dispatch.finish()

    assert jobs.said[-2:] == ["cancel ", "delete "]


async def test_at_its_end_nobody_waits_for_ever(dispatch: Dispatch, jobs: PlayedJobs) -> None:
    batch = batch_of(dispatch, 1)
    dispatch.begin(batch)
    await until(lambda: batch.is_submitted, PATIENCE_S)
    await dispatch.close()

    with pytest.raises(CallFailed, match="was closed"):
        result(batch, 1)


def test_all_states_that_end_are_known() -> None:
    assert {JobState.DONE, JobState.HELD, JobState.CANCELLED} == SETTLED
