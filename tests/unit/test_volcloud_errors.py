"""The errors of the command and the client are one tree, and the page at its head shows it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from volcloud import errors
from volcloud.errors import VolcloudError

ROOT = Path(errors.__file__).parent


def drawn(kind: type[BaseException], depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, kind.__name__
    for child in kind.__subclasses__():
        yield from drawn(child, depth + 1)


def test_the_tree_at_the_head_is_the_tree() -> None:
    lines = re.findall(r"^([├└│─ ]*)([A-Z]\w+)  ", inspect.getdoc(errors) or "", re.MULTILINE)

    assert sorted((len(mark) // 4, name) for mark, name in lines) == sorted(drawn(VolcloudError))


def test_every_error_of_the_package_is_in_the_tree() -> None:
    bases = {base.__name__ for base in vars(errors).values() if inspect.isclass(base)} | {"Exception", "BaseException"}
    elsewhere = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & bases
    ]

    assert elsewhere == []
