"""The house: floors import downwards only, the image's agent stays small, one module imports pika."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOR = {"schemas": 0, "broker": 1, "host_agent": 2, "guest_agent": 2, "adapters": 2, "volcloud": 3}
MODULES = sorted(path for package in FLOOR for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_its_own_room_and_floors_below(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]

    others = {name.partition(".")[0] for name in imports_of(path)} & set(FLOOR) - {here}

    assert [there for there in others if FLOOR[there] >= FLOOR[here]] == []


def test_pika_is_imported_in_one_room() -> None:
    using = [str(p.relative_to(ROOT)) for p in MODULES if any(n.partition(".")[0] == "pika" for n in imports_of(p))]

    assert {str(Path(path).parent) for path in using} == {"broker/amqp"}


def test_the_guest_agent_loads_nothing_of_the_centre() -> None:
    code = "import sys, guest_agent.main; print(*sorted({m.partition('.')[0] for m in sys.modules}))"

    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )

    assert {"pika", "msgspec", "msgpack"} <= loaded
    assert (
        loaded & {"kombu", "sqlalchemy", "alembic", "click", "rich", "prometheus_client", "volcloud", "adapters"}
        == set()
    )
