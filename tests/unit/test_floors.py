"""The house: floors import downwards only, the image's agent stays small, one module imports pika."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.source import FLOOR, MODULES, ROOT, imports_of


def test_a_module_imports_only_its_own_room_and_floors_below() -> None:
    assert {str(path.relative_to(ROOT)): there for path in MODULES if (there := not_below(path))} == {}


def not_below(path: Path) -> list[str]:
    """Name the floors that a module imports from and may not."""
    here = path.relative_to(ROOT).parts[0]
    others = {name.partition(".")[0] for name in imports_of(path)} & set(FLOOR) - {here}
    return sorted(there for there in others if FLOOR[there] >= FLOOR[here])


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
