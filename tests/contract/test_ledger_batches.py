"""What is written down of many jobs of a grid at once takes no more statements than of a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from sqlalchemy import event

from adapters.ledger import acquisitions, deliveries, submissions
from adapters.ledger.acquisitions import Acquisition, AcquisitionKey, owner_of
from adapters.ledger.submissions import CheckedSubmission, Origin
from adapters.ledger.transaction import Tx
from schemas.description import JobDescription
from schemas.ledger import JobSubmit
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

FEW, MANY = 5, 50
LYON = "lyon"

#: One operation of a portion of jobs.
Work = Callable[[Tx], object]


def statements(desk: Desk, work: Work) -> int:
    """Do it; gives how many statements the database was sent."""
    counted: list[str] = []
    engine = desk.ledger._open_engines.durable

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        counted.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    try:
        desk.write(work)
    finally:
        event.remove(engine, "before_cursor_execute", count)
    return len(counted)


def given(names: Sequence[str]) -> list[Acquisition]:
    return [Acquisition(key=AcquisitionKey(LYON, name, 1), data=b"job", work=b"work") for name in names]


def submission(name: str) -> tuple[str, CheckedSubmission]:
    message = JobSubmit(job=JobDescription(id=name, executable="/bin/true"))
    return owner_of(LYON), submissions.check(message, lambda digest: True, Origin(LYON, b"job"))


def taken_of(desk: Desk, names: Sequence[str]) -> list[Acquisition]:
    desk.write(put(desk, names))
    return desk.write(lambda tx: acquisitions.take(tx, LYON))


def put(desk: Desk, names: Sequence[str]) -> Work:
    return partial(acquisitions.put, given=given(names))


def take(desk: Desk, names: Sequence[str]) -> Work:
    desk.write(put(desk, names))
    return partial(acquisitions.take, source=LYON)


def renew(desk: Desk, names: Sequence[str]) -> Work:
    taken = taken_of(desk, names)
    return partial(acquisitions.renew, source=LYON, keys=[one.key for one in taken][::2])


def forget(desk: Desk, names: Sequence[str]) -> Work:
    taken = taken_of(desk, names)
    return partial(acquisitions.forget, keys=[one.key for one in taken])


def submit(desk: Desk, names: Sequence[str]) -> Work:
    return partial(submissions.submit_all, checked=[submission(name) for name in names])


def end(desk: Desk, names: Sequence[str]) -> Work:
    desk.write(submit(desk, names))
    numbers = [desk.job(f"{name}.1", owner_of(LYON)).number for name in names]
    return partial(deliveries.put, numbers=numbers)


OPERATIONS = {"put": put, "take": take, "renew": renew, "forget": forget, "submit": submit, "end": end}


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_many_at_once_take_no_more_statements_than_a_few(desk: Desk, name: str) -> None:
    few, many = (
        statements(desk, OPERATIONS[name](desk, [f"{name}-{count}-{n}" for n in range(count)])) for count in (FEW, MANY)
    )

    assert many <= few + 2
