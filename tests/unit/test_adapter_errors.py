"""The errors of the centre are one tree on one page, and the page names them all."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import adapters.errors
from adapters.errors import AdapterError

ADAPTERS = Path(adapters.errors.__file__).parent


def test_every_error_of_the_centre_is_in_the_tree_that_its_module_prints() -> None:
    kinds = [kind for _, kind in inspect.getmembers(adapters.errors, inspect.isclass) if issubclass(kind, AdapterError)]
    tree = {word for line in (adapters.errors.__doc__ or "").splitlines() for word in line.strip("│├└─ ").split()[:1]}

    assert [kind.__name__ for kind in kinds if kind.__name__ not in tree] == []
    assert len(kinds) > 1


def test_no_other_module_of_the_centre_has_errors_of_its_own() -> None:
    names = {name for name, kind in vars(adapters.errors).items() if inspect.isclass(kind)} | {"Exception", "OSError"}
    found = [
        f"{path.name}: {node.name}"
        for path in ADAPTERS.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
    ]

    assert found == []
