"""No room is for everything: a class has so many methods of its own and a module so many lines, and no more."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.unit.test_floors import MODULES

MOST_METHODS, MOST_LINES = 20, 350


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_and_its_classes_are_small(path: Path) -> None:
    text = path.read_text()
    large = {
        node.name: count
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and (count := _methods(node)) > MOST_METHODS
    }

    assert large == {}
    assert text.count("\n") <= MOST_LINES


def _methods(node: ast.ClassDef) -> int:
    return sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)


def test_no_two_classes_have_one_name() -> None:
    rooms: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, []).append(f"{path.parent.name}/{path.name}")

    assert {name: where for name, where in rooms.items() if len(where) > 1} == {}
