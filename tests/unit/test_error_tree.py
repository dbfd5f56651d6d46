"""The host agent's errors are one tree, printed at the top of their module, and no module has one of its own."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

from host_agent import errors
from host_agent.errors import HostError
from tests.source import ROOT

#: Names by which a class is known to be an error: ours, and Python's.
KNOWN = {
    name
    for names in (vars(errors), vars(builtins))
    for name, found in names.items()
    if isinstance(found, type) and issubclass(found, BaseException)
}


def printed(docstring: str) -> dict[str, str]:
    """Read the tree: each error, and the one above it."""
    above: dict[int, str] = {}
    found: dict[str, str] = {}
    for line in docstring.splitlines():
        if match := re.match(r"([│├└─ ]*)([A-Z]\w+)(?: {2,}\S.*)?$", line):
            depth = len(match[1]) // 4
            found[match[2]] = above.get(depth - 1, "")
            above[depth] = match[2]
    return found


def grown(kind: type[HostError], above: str = "") -> Iterator[tuple[str, str]]:
    yield kind.__name__, above
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from grown(child, kind.__name__)


def errors_in(path: Path) -> list[str]:
    kinds = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = {kind.name: {base.id for base in kind.bases if isinstance(base, ast.Name)} for kind in kinds}
    return [name for name, above in bases.items() if above & KNOWN]


def test_the_tree_that_is_printed_is_the_tree_that_there_is() -> None:
    assert printed(errors.__doc__ or "") == dict(grown(HostError))


def test_every_error_of_the_host_agent_lives_in_it() -> None:
    modules = [path for path in (ROOT / "host_agent").rglob("*.py") if path.name != "errors.py"]

    assert [f"{path.relative_to(ROOT)}: {name}" for path in modules for name in errors_in(path)] == []
