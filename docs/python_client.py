"""The page of the Python client, from its classes, signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import volcloud.client
import volcloud.errors
from schemas.envelope import Reply
from volcloud import AsyncClient, Client
from volcloud.client import events, execs, jobs, watched_transfers
from volcloud.client.looks import LogPage, VmUsage
from volcloud.client.shown import FACES, JobPage, Table
from volcloud.executor.executor import VolunteerExecutor

#: Modules with kinds of callbacks, each behind a comment that says what it is called with.
_CALLBACKS = (watched_transfers, jobs, execs, events)
_ALIAS = re.compile(r"((?:^#:.*\n)+)^(\w+) = (Callable\[.*\])$", re.MULTILINE)
Row = tuple[str, str, str]


def sections() -> Iterator[str]:
    """Describe the client, a section each: the clients, the nouns, the errors."""
    yield _plain(volcloud.client.__doc__)
    yield from _class("`Client`", Client, Client)
    yield f"## `AsyncClient`\n\n{_plain(AsyncClient.__doc__)}"
    yield from _of_asyncio_only(Client, AsyncClient)
    for noun, kind in get_type_hints(Client).items():
        yield from _class(f"`cloud.{noun}`", kind, sys.modules[kind.__module__])
        yield from _of_asyncio_only(kind, get_type_hints(AsyncClient)[noun])
    yield from _class("`VolunteerExecutor`", VolunteerExecutor, VolunteerExecutor)
    yield f"## Errors\n\n```text\n{_plain(volcloud.errors.__doc__)}\n```"


def results() -> Iterator[Row]:
    """Give name, meaning and fields of each struct that the client gives."""
    yield "Table", _first(Table.__doc__), ""
    for kind in (*FACES, JobPage, VmUsage, LogPage):
        yield kind.__name__, _first(kind.__doc__), ", ".join(f"`{one}`" for one in _fields(kind))


def callbacks() -> Iterator[Row]:
    """Give name, meaning and type of each kind of callback."""
    for module in _CALLBACKS:
        for comment, name, kind in _ALIAS.findall(inspect.getsource(module)):
            yield name, " ".join(line.removeprefix("#:").strip() for line in comment.splitlines()), f"`{kind}`"


def _class(title: str, kind: type, described: Any) -> Iterator[str]:
    """Describe a class: what it is for, by the docstring of the class or its module, and its methods."""
    yield f"## {title}\n\n{_plain(described.__doc__)}"
    own = _plain(kind.__doc__).removeprefix("See the module.").strip()
    if own and described is not kind:
        yield own
    yield from _properties(kind)
    for name, method in _methods(kind):
        yield _method(name, method)


def _of_asyncio_only(kind: type, twin: type) -> Iterator[str]:
    """Describe what only the class for asyncio has, or takes otherwise."""
    known = {name: list(inspect.signature(method).parameters.values()) for name, method in _methods(kind)}
    for name, method in _methods(twin):
        if known.get(name) != list(inspect.signature(method).parameters.values()):
            yield f"For asyncio:\n\n{_method(name, method)}"


def _method(name: str, method: Callable[..., Any]) -> str:
    return f"```python\n{name}{_signature(method)}\n```\n\n{_plain(method.__doc__)}"


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Give the public methods, in the order of the code."""
    names = [name for base in reversed(kind.__mro__) if base.__module__.startswith("volcloud.") for name in vars(base)]
    for name in dict.fromkeys(names):
        one = getattr(kind, name)
        if not name.startswith("_") and inspect.isroutine(one):
            yield name, one


def _properties(kind: type) -> Iterator[str]:
    for name, one in vars(kind).items():
        if isinstance(one, property):
            given = inspect.signature(one.fget).return_annotation if one.fget else ""
            yield f"```python\n{name}: {given}\n```\n\n{_plain(one.__doc__)}"


class _Text:
    """Stands in a signature for what is written as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(method: Callable[..., Any]) -> str:
    signature = inspect.signature(method)
    parameters = [_written(one) for one in signature.parameters.values() if one.name != "self"]
    given = signature.replace(parameters=parameters, return_annotation=_Text(signature.return_annotation))
    return str(given) if len(str(given)) < 100 else _wrapped(given)


def _wrapped(signature: inspect.Signature) -> str:
    """Write a long signature a parameter a line."""
    lines, is_keyword = [], False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not is_keyword:
            lines.append("*")
            is_keyword = True
        lines.append(str(one))
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f") -> {signature.return_annotation!r}"


def _written(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    return parameter.replace(
        annotation=_Text(parameter.annotation),
        default=_Text(default.__name__) if inspect.isfunction(default) else default,
    )


def _fields(kind: Any) -> list[str]:
    """Name the fields of a struct, but for those of the envelope, which are of no use to who asked."""
    envelope = Reply.__struct_fields__ if issubclass(kind, Reply) else ()
    return [name for name in kind.__struct_fields__ if name not in envelope]


def _plain(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("``", "`")


def _first(text: str | None) -> str:
    return _plain(text).split("\n\n")[0].replace("\n", " ")
