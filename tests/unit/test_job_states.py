"""The states of a job fall into sets that are named once, where everybody can import them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from schemas.ledger import AT_WORK, FINAL, SETTLED, UNASSIGNED, JobState

ROOT = Path(__file__).parents[2]
HOME = ROOT / "schemas" / "ledger.py"
MODULES = sorted({path for package in ("schemas", "adapters", "volcloud") for path in (ROOT / package).rglob("*.py")})


def test_a_job_is_unassigned_or_at_work_or_has_ended() -> None:
    assert sorted([*UNASSIGNED, *AT_WORK, *FINAL]) == sorted(JobState)
    assert list(SETTLED - FINAL) == [JobState.HELD]


@pytest.mark.parametrize("path", [path for path in MODULES if path != HOME], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_makes_a_set_of_states_of_its_own(path: Path) -> None:
    collections = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Set | ast.Tuple)]

    assert [node.lineno for node in collections if len(node.elts) > 1 and all(map(is_state, node.elts))] == []


def is_state(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "JobState"
