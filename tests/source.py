"""The project's own source, for the tests that hold all of it to a rule: each is one test, and names who breaks it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOOR = {"schemas": 0, "broker": 1, "host_agent": 2, "guest_agent": 2, "adapters": 2, "volcloud": 3}
MODULES = sorted(path for package in FLOOR for path in (ROOT / package).rglob("*.py"))


def modules_in(*folders: str) -> list[Path]:
    """Name what there is in folders that are no floors."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Parse a module, once for all tests."""
    return ast.parse(path.read_text())


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Name all that there is in a module, walked once for all tests."""
    return tuple(ast.walk(parsed(path)))


def imports_of(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def lines_where(paths: Iterable[Path], breaks: Callable[[ast.AST], bool]) -> list[str]:
    """Name each line at which a node breaks a rule, as ``file:line``."""
    return [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in paths
        for node in nodes_of(path)
        if breaks(node)
    ]
