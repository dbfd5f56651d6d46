"""The states of a job fall into sets that are named once, where everybody can import them."""

from __future__ import annotations

import ast

from schemas.ledger import AT_WORK, FINAL, SETTLED, UNASSIGNED, JobState
from tests.source import MODULES, ROOT, lines_where

HOME = ROOT / "schemas" / "ledger.py"


def test_a_job_is_unassigned_or_at_work_or_has_ended() -> None:
    assert sorted([*UNASSIGNED, *AT_WORK, *FINAL]) == sorted(JobState)
    assert list(SETTLED - FINAL) == [JobState.HELD]


def test_no_module_makes_a_set_of_states_of_its_own() -> None:
    assert lines_where([path for path in MODULES if path != HOME], is_of_states) == []


def is_of_states(node: ast.AST) -> bool:
    """Say whether this is a collection of several states and of nothing else."""
    return isinstance(node, ast.Set | ast.Tuple) and len(node.elts) > 1 and all(map(is_state, node.elts))


def is_state(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "JobState"
