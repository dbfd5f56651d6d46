"""What is due by time and is changed by another transaction in that moment is judged anew, on PostgreSQL.

SQLite has one writer at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from sqlalchemy import ColumnElement, Executable, func, select, text

from adapters.ledger import (
    absences,
    inventory,
    leases,
    orders,
    readiness,
    repute,
    requests,
    retention,
    tables,
    timetable,
)
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from schemas.jobs import JobBeat, Outcome
from schemas.ledger import JobCancel
from schemas.vms import HostInventory
from tests.contract.ledger_fixtures import FACTS, Cluster, Desk, cluster, status

__all__ = ["cluster"]

_WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


@pytest.fixture
def desks(cluster: Cluster) -> Iterator[tuple[Desk, Desk]]:
    """Two adapters at one ledger."""
    url, policy = cluster.create(), Policy(first_retry_s=5)
    both = Desk(url, policy), Desk(url, policy, "adapter-other")
    yield both
    for desk in both:
        desk.ledger.close()


class Case(NamedTuple):
    """What is due, what another transaction changes in that moment, and what must still be there once."""

    prepare: Callable[[Desk], object]
    change: Callable[[Desk, Tx], object]
    step: Callable[[Tx], int]
    stays: tuple[ColumnElement[bool], ...]


def _beat(desk: Desk, tx: Tx) -> None:
    leases.renew(tx, "vm-1", JobBeat(id=desk.id(), generation=1, holding=[]))


def _report(desk: Desk, tx: Tx) -> None:
    inventory.report(tx, "host-1", HostInventory(id=desk.id(), host=FACTS, vms=[], at_ms=desk.now_ms))


def _asked(seconds: float) -> Callable[[Desk], None]:
    def prepare(desk: Desk) -> None:
        desk.report("host-1", status("vm-1"))
        desk.ask("vm-1")
        desk.pass_s(seconds)

    return prepare


def _struck(desk: Desk) -> None:
    desk.ask("vm-1")
    for _ in range(2):
        desk.write(lambda tx: repute.strike(tx, {"vm-1": ""}))
    desk.pass_s(repute.FIRST_REST_S + 1)


def _failed(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    desk.complete(desk.start("vm-1"), Outcome.FAILED)
    desk.pass_s(3600)


def _remove_host(tx: Tx) -> int:
    hosts = next(found for found in retention.kinds(retention.Keep()) if found.what == "hosts")
    return hosts.remove(tx, ["host-1"])


CASES = {
    "silence": Case(
        _asked(60), _beat, readiness.fall_silent, (tables.vms.c.agent == "speaks", tables.requests.c.state == "ready")
    ),
    "silent host": Case(_asked(60), _report, absences.fall_silent, (tables.hosts.c.told == "present",)),
    "rest": Case(
        _struck,
        lambda _, tx: repute.strike(tx, {"vm-1": ""}),
        readiness.end_rests,
        (tables.vms.c.rest_until_ms > 0, tables.requests.c.state == "blocked"),
    ),
    "request": Case(
        _asked(1000),
        lambda desk, tx: requests.ask(tx, "vm-1", desk.request()),
        lambda tx: requests.forget(tx, tx.lease_now_ms - 900_000),
        (tables.requests.c.slot == 0,),
    ),
    "wait": Case(
        _failed,
        lambda desk, tx: orders.cancel(tx, JobCancel(id=desk.id(), job="site-a/one")),
        timetable.end_waits,
        ((tables.jobs.c.state == "cancelled") & (tables.jobs.c.not_before_ms > 0),),
    ),
    "host": Case(_asked(91 * 86400), _beat, _remove_host, (tables.vms.c.vm == "vm-1",)),
}


def _count(desk: Desk, statement: Executable) -> int:
    return desk.ledger.read(lambda tx: int(tx.execute(statement).scalar_one()))


@pytest.mark.parametrize("name", CASES)
def test_what_is_changed_in_the_moment_in_which_it_is_due_is_judged_anew(desks: tuple[Desk, Desk], name: str) -> None:
    case, (desk, other) = CASES[name], desks
    case.prepare(desk)
    other.now_ms = desk.now_ms
    found: list[int] = []
    sweep = threading.Thread(target=lambda: found.append(other.ledger.write(case.step)), daemon=True)

    def change(tx: Tx) -> None:
        case.change(desk, tx)
        sweep.start()
        ends_s = time.monotonic() + 30
        while not _count(desk, _WAITS):
            assert time.monotonic() < ends_s, "the other transaction does not come to the same row"
            time.sleep(0.01)

    desk.ledger.write(change)
    sweep.join(30)

    assert found == [0]
    assert [_count(desk, select(func.count()).where(stays)) for stays in case.stays] == [1] * len(case.stays)
