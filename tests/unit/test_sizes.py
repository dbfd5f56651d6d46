"""No room is for everything: a class has so many methods of its own and a module so many lines, and no more."""

from __future__ import annotations

import ast

from tests.source import MODULES, ROOT, lines_where, parsed

MOST_METHODS, MOST_LINES = 20, 350


def test_a_class_is_small() -> None:
    assert lines_where(MODULES, lambda node: isinstance(node, ast.ClassDef) and _methods(node) > MOST_METHODS) == []


def test_a_module_is_small() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in MODULES}

    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def _methods(node: ast.ClassDef) -> int:
    return sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)


def test_no_two_classes_have_one_name() -> None:
    rooms: dict[str, list[str]] = {}
    for path in MODULES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, []).append(f"{path.parent.name}/{path.name}")

    assert {name: where for name, where in rooms.items() if len(where) > 1} == {}
