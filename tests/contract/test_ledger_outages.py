"""While no storage adapter is at work, or its store takes no files, nobody is blamed for what waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.config import StorageAdapterConfig
from adapters.ledger import clock, outages
from adapters.ledger.policy import Policy
from adapters.metrics import Metrics
from adapters.storage.adapter import StorageAdapter
from adapters.storage.contents import FsspecContents
from adapters.storage.store import UNFINISHED, FsspecStore
from broker.memory import MemoryCarrier
from schemas.jobs import JobAssign, Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

HOUR_S, STAGING_S = 3600, 1800
MOVES_FILES = pytest.mark.parametrize("phase", [Phase.STAGE_IN, Phase.STAGE_OUT])


@pytest.fixture
def slow(url: str) -> Iterator[Desk]:
    """A ledger whose files may take half an hour, and whose jobs no time beside that."""
    made = Desk(url, policy=Policy(first_retry_s=0, staging_s=STAGING_S))
    made.report("host-1", status("vm-1"))
    made.submit("one", wall_time_s=1.0, grace_s=0.0)
    yield made
    made.ledger.close()


def live(desk: Desk, job: JobAssign, phase: Phase, seconds: int, *, is_stored: bool) -> JobState:
    """Let time pass while a guest beats, with the storage at work or not."""
    for _ in range(seconds // 60):
        desk.pass_s(60)
        desk.beat(job, phase=phase)
        if is_stored:
            desk.write(outages.take_turn)
        desk.keep_time()
    return desk.state("one")


@MOVES_FILES
def test_what_waits_for_the_storage_is_not_lost_in_an_outage_and_has_its_time_afterwards(
    slow: Desk, phase: Phase
) -> None:
    job = slow.start("vm-1")
    before = live(slow, job, phase, 600, is_stored=True)

    meanwhile = live(slow, job, phase, 24 * HOUR_S, is_stored=False)
    afterwards = live(slow, job, phase, 1080, is_stored=True)
    at_last = live(slow, job, phase, 300, is_stored=True)

    assert (before, meanwhile, afterwards) == (phase, phase, phase)
    assert (at_last, slow.job("one").losses) == (JobState.SUBMITTED, 1)


def test_what_needs_no_storage_has_its_term_all_the_same(slow: Desk) -> None:
    job = slow.start("vm-1")
    live(slow, job, Phase.RUNNING, 600, is_stored=True)

    assert live(slow, job, Phase.RUNNING, HOUR_S, is_stored=False) is JobState.SUBMITTED


def test_what_is_held_up_takes_nobodys_place_among_those_that_are_due(
    slow: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.ledger.leases.MOST_EXPIRED", 1)
    slow.submit("two", wall_time_s=1.0, grace_s=0.0)
    slow.write(outages.take_turn)
    stores, runs = slow.start("vm-1"), slow.start("vm-2")
    for _ in range(HOUR_S // 60):
        slow.pass_s(60)
        slow.beat(stores, phase=Phase.STAGE_OUT)
        slow.beat(runs, phase=Phase.RUNNING)
    slow.expire()

    assert (slow.state("one"), slow.state("two")) == (JobState.STAGE_OUT, JobState.SUBMITTED)


@MOVES_FILES
def test_a_short_silence_of_the_storage_adds_nothing(slow: Desk, phase: Phase) -> None:
    job = slow.start("vm-1")
    live(slow, job, phase, 60, is_stored=True)

    for _ in range(40):
        live(slow, job, phase, 60, is_stored=True)

    assert slow.state("one") is JobState.SUBMITTED


def adapter_of(desk: Desk, directory: Path) -> tuple[StorageAdapter, MemoryCarrier]:
    """A storage adapter on the desk's ledger."""
    wire, store = MemoryCarrier("adapter-store-1"), FsspecStore(f"file://{directory}/store")
    metrics = Metrics(wire.user, CollectorRegistry())
    config = StorageAdapterConfig(credential="", ledger="", store="", staging=str(directory / "staging"))
    return StorageAdapter(wire, desk.ledger, store, FsspecContents(store), config, metrics), wire


def seen_ms(desk: Desk) -> int:
    return desk.ledger.read(lambda tx: clock.last_seen_ms(tx, clock.STORAGE))


async def test_an_adapter_is_at_work_while_its_store_takes_files_and_no_longer(desk: Desk, tmp_path: Path) -> None:
    adapter, _ = adapter_of(desk, tmp_path)
    place = tmp_path / "store" / UNFINISHED
    await adapter.take_turn()
    at_first, left = seen_ms(desk), list(place.iterdir())

    place.rmdir()
    place.write_bytes(b"in the way of every file")
    desk.pass_s(60)
    await adapter.take_turn()
    refusing = seen_ms(desk)
    place.unlink()
    await adapter.take_turn()

    assert (at_first, left, refusing, seen_ms(desk)) == (desk.now_ms - 60_000, [], at_first, desk.now_ms)


async def test_an_adapter_whose_link_is_down_is_not_at_work(desk: Desk, tmp_path: Path) -> None:
    adapter, wire = adapter_of(desk, tmp_path)
    wire.is_up = False

    await adapter.take_turn()

    assert seen_ms(desk) == 0
