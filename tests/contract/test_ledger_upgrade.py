"""A ledger of the release before is migrated while an adapter of that release goes on: nothing in it is lost."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, MetaData, select, text
from sqlalchemy.exc import OperationalError

from adapters.ledger import tables
from adapters.ledger.connections import connect
from adapters.ledger.migrations.upgrading import config
from schemas.jobs import Machine
from tests.contract.ledger_fixtures import Desk, cluster, empty_url

__all__ = ["cluster", "empty_url"]

#: Rows that the release whose newest revision was 0012 has written: jobs in every state, of three owners.
BEFORE = json.loads(Path(__file__).with_name("ledger_0012.json").read_bytes())
#: In it; and how far its clocks had come, ms.
STATES = {f"{row['ref']}": row["state"] for row in BEFORE["jobs"]}
NOW_MS = 1_000_000_000_000
LARGE = Machine(cpus=4, memory_mib=20_000_000, disk_mib=8192, platform="linux/x86_64")
#: How long the other adapter is waited for, seconds.
DEADLINE_S = 60.0
#: A job that waits, as that release writes it, numbers given.
SUBMISSION = text(
    "INSERT INTO submissions "
    "(owner, id, digest, description, count, made, attempts, shape, rank, submitted_ms, source) "
    "SELECT :owner, :id, 'd', description, 1, 1, 3, shape, 0, submitted_ms, 'site' FROM submissions "
    "WHERE id = 'waiting-small' RETURNING number, shape"
)
JOB = text(
    "INSERT INTO jobs (submission, idx, ref, owner, shape, rank, state, attempt, failures, losses, lost_on, reason, "
    "submitted_ms, ended_ms, since_ms) VALUES (:number, 1, :ref, :owner, :shape, 0, 'submitted', 0, 0, 0, '', '', "
    ":now_ms, 0, :now_ms)"
)
TALLY = text(
    "INSERT INTO tallies (submission, owner, state, shard, count) VALUES (:of, :owner, 'submitted', 0, 1) "
    "ON CONFLICT (submission, owner, state, shard) DO UPDATE SET count = tallies.count + 1"
)


def lay_out(url: str) -> None:
    """Make the ledger as that release left it."""
    engine = connect(url, "FULL").durable
    with engine.begin() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "0012")
        found = MetaData()
        found.reflect(connection)
        for table in found.sorted_tables:
            rows = [_row(row) for row in BEFORE.get(table.name, []) if table.name != "alembic_version"]
            connection.execute(table.delete()) if rows else None
            connection.execute(table.insert(), rows) if rows else None
            if engine.dialect.name == "postgresql" and rows and "number" in table.c:
                newest = max(row["number"] for row in rows)
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'number'), {newest})"))
    engine.dispose()


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: base64.b64decode(value["b64"]) if isinstance(value, dict) else value for name, value in row.items()}


class OldAdapter:
    """Submits jobs as that release did, one after the other: every third brings an owner of its own."""

    def __init__(self, engine: Engine) -> None:
        self.submitted: list[str] = []
        self._engine = engine
        self._ends = threading.Event()
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="old adapter", daemon=True)
        self._thread.start()

    def wait_for_more(self, jobs: int) -> None:
        with self._more:
            wanted = len(self.submitted) + jobs
            assert self._more.wait_for(lambda: len(self.submitted) >= wanted, DEADLINE_S)

    def end(self) -> None:
        self._ends.set()
        self._thread.join(DEADLINE_S)
        self._engine.dispose()

    def _run(self) -> None:
        for number in count(1):
            if self._ends.is_set():
                return
            self._ends.wait(0.02)
            try:
                self._submit(f"site-{number - number % 3}", f"late-{number}")
            except OperationalError:
                continue  # it waits for the lock no longer, and tries the next one

    def _submit(self, owner: str, name: str) -> None:
        ref = f"{owner}/{name}.1"
        with self._engine.begin() as connection:
            row = connection.execute(SUBMISSION, {"owner": owner, "id": name}).one()
            named = {"number": row.number, "shape": row.shape, "ref": ref, "owner": owner, "now_ms": NOW_MS}
            connection.execute(JOB, named)
            for of in (0, row.number):
                connection.execute(TALLY, {"owner": owner, "of": of})
        with self._more:
            self.submitted.append(ref)
            self._more.notify_all()


@contextmanager
def old_adapter(url: str) -> Iterator[OldAdapter]:
    one = OldAdapter(connect(url, "FULL").durable)
    try:
        yield one
    finally:
        one.end()


def states(desk: Desk) -> dict[str, str]:
    rows = desk.ledger.read(lambda tx: tx.execute(select(tables.jobs.c.ref, tables.jobs.c.state)).all())
    return {row.ref: str(row.state) for row in rows}


def kinds_of(desk: Desk) -> set[str]:
    """Name the owners of whom matching knows what they have submitted."""
    return set(desk.ledger.read(lambda tx: tx.execute(select(tables.kinds.c.owner)).scalars().all()))


@pytest.mark.slow
def test_nothing_is_lost_while_it_is_migrated_beside_an_adapter_of_before(empty_url: str) -> None:
    lay_out(empty_url)
    with old_adapter(empty_url) as old:
        old.wait_for_more(3)
        first = Desk(empty_url)
        old.wait_for_more(6)
    first.ledger.close()
    desk = Desk(empty_url)  # what takes the old one's place
    found = states(desk)

    assert {ref: found.get(ref) for ref in STATES} == STATES
    assert {ref for ref in found if ref not in STATES} == set(old.submitted)
    assert kinds_of(desk) >= {ref.partition("/")[0] for ref in found}

    running = SimpleNamespace(job="site-a/running.1", attempt=1, generation=1, target="vm-6")
    desk.complete(running, exit_status=0)  # type: ignore[arg-type]
    wanted = [ref for ref, state in found.items() if state == "submitted" and "/delayed" not in ref]
    for number in range(len(wanted) + 5):
        desk.ask(f"vm-large-{number}", machine=LARGE)
    after = states(desk)

    assert after["site-a/running.1"] == "done"
    assert {ref for ref in wanted if after[ref] != "assigned"} == set()
    desk.ledger.close()
