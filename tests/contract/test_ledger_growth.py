"""What the ledger does does not grow with what is in it: counted in steps of the database, not in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks.ledger.operations import OPERATIONS
from benchmarks.ledger.world import World, build

#: Jobs and VMs of a small world and of one ten times as large, with ten times as many kinds of jobs that wait.
SMALL, LARGE = (1_000, 100), (10_000, 1_000)
#: Instructions of SQLite between two counts, and what a statement costs beside them.
STEP, STATEMENT = 20, 100


class Meter:
    """Counts what a database does for us."""

    def __init__(self, world: World) -> None:
        self.work = 0
        for engine in world.ledger._open_engines:
            event.listen(engine, "before_cursor_execute", self._on_statement)

    def _on_statement(self, connection: Any, *_: object) -> None:
        self.work += STATEMENT
        connection.connection.dbapi_connection.set_progress_handler(self._on_step, STEP)

    def _on_step(self) -> int:
        self.work += STEP
        return 0

    def of(self, work: Callable[[], object]) -> int:
        before = self.work
        work()
        return self.work - before


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    directory: Path = tmp_path_factory.mktemp("worlds")
    small, large = build(directory / "small.db", *SMALL), build(directory / "large.db", *LARGE)
    yield small, large
    small.ledger.close()
    large.ledger.close()


def work_of(world: World, name: str) -> int:
    """Do an operation a few times; give the work of the cheapest, once all that is learnt once is known."""
    meter = Meter(world)
    return min(meter.of(lambda nth=nth: OPERATIONS[name](world, nth)) for nth in range(3))  # type: ignore[misc]


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_does_not_grow_with_the_ledger(worlds: tuple[World, World], name: str) -> None:
    small, large = (work_of(world, name) for world in worlds)

    assert large <= 2 * small, f"{small} in a small ledger, {large} in one ten times as large"
