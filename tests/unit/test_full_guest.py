"""A guest whose disk a job has filled: the job's own end gets through, and makes the room that the next one needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker import reserve
from broker.rpc import record_file
from guest_agent import disk as disks
from schemas.description import Output
from schemas.jobs import JobCompletion, Outcome
from tests.broker.polling import until
from tests.unit.disks import small_disk
from tests.unit.guests import content_of
from tests.unit.test_attempt_journal import Agent, job, running

DISK_BYTES = 16 << 20
#: Fills the disk, and says more than the journal has left of its extent.
FILL = "mkdir -p junk/deep; cat /dev/zero > junk/deep/zeros 2> /dev/null; head -c 15000 /dev/zero; exit 3"


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "RESERVE_BYTES", 1 << 20)
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 0)


async def told(agent: Agent, number: int = 1) -> JobCompletion:
    await until(lambda: len(agent.up.completions) == number, 30)
    return agent.up.completions[-1]


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


async def test_a_job_that_fills_the_disk_ends_and_the_next_one_runs(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        disk.chmod(0o755)
        async with running(disk) as agent:
            await agent.assign(job(1, "sh", "-c", FILL))
            first = await told(agent)
            await agent.assign(job(2, "sh", "-c", "head -c 1000000 /dev/zero > some"))
            second = await told(agent, 2)

    assert (first.outcome, first.exit_status) == (Outcome.FAILED, 3)
    assert second.outcome == Outcome.DONE, second.cause


@pytest.mark.parametrize(("asked_mib", "outcome"), [(100, Outcome.LOST), (2, Outcome.FAILED)])
async def test_who_was_promised_less_disk_than_he_asked_for_is_lost_and_not_blamed(
    tmp_path: Path, asked_mib: int, outcome: Outcome
) -> None:
    """Where no kernel counts, others had taken the disk meanwhile: the job was killed as if it had asked for less."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        disk.chmod(0o755)
        async with running(disk) as agent:
            agent.at.resources.disk.begin(disk / "another slot", None, 4 << 20)
            fill = "head -c 10000000 /dev/zero > some; sleep 60"
            await agent.assign(job(1, "sh", "-c", fill, disk_mib=asked_mib, grace_s=0.5))
            completion = await told(agent)

    assert completion.outcome == outcome, completion.cause
    assert ("which was to have 100 MiB" if asked_mib == 100 else "its limit was 2 MiB") in completion.cause


async def test_an_end_that_needs_the_journals_next_extent_gets_it_from_the_jobs_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where all of the reserve went to others."""
    monkeypatch.setattr(record_file, "RESERVE_BYTES", 0)
    monkeypatch.setattr(record_file, "EXTENT_BYTES", 8192)
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        async with running(disk) as agent:
            await agent.assign(job(1, "sh", "-c", FILL))
            completion = await told(agent)

    assert len(content_of(completion, "stdout")) == 15_000
    assert agent.up.durable == [True]


async def test_outputs_that_wait_for_the_store_stay_and_all_else_makes_room(tmp_path: Path) -> None:
    fill = "head -c 200000 /dev/urandom > real; ln -s real kept; cat /dev/zero > zeros 2> /dev/null; true"
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        async with running(disk) as agent:
            agent.at.full_for = 1 << 30
            await agent.assign(job(1, "sh", "-c", fill, outputs=[Output(name="kept")]))
            await until(lambda: any(held.trouble for held in agent.loop._held.values()), 30)
            left, room = sorted(path.name for path in agent.at.slot_directory.work.glob("*/*")), free(disk)
            agent.at.full_for = 0
            completion = await told(agent)

    assert completion.outcome == Outcome.DONE, completion.cause
    assert left == ["kept", "real"]
    assert room > DISK_BYTES // 2
    assert len(agent.at.stored["kept"]) == 200_000
