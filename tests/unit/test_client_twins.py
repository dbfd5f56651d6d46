"""The blocking client and the one for asyncio are twins: the same nouns, methods, parameters and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, assert_type, get_type_hints

import pytest

from schemas.ledger import RegistryRow
from schemas.vms import VmStatus
from volcloud import AsyncClient, Client
from volcloud.client.shown import JobPage, Table


def types_are_kept(cloud: Client) -> None:
    """Is read by the type checker alone, which knows each signature: an ignore that is not needed is an error."""
    assert_type(cloud.vms.start(vm="a"), VmStatus | None)
    assert_type(cloud.vms.list(), Table[RegistryRow])
    assert_type(cloud.jobs.list(limit=1), JobPage)
    assert_type(cloud.jobs.fetch("j.1", ".", overwrite=True), Sequence[Path])
    cloud.vms.start(name="a")  # type: ignore[call-arg]
    cloud.jobs.wait("j", timeout=1)  # type: ignore[call-arg]


NOUNS = sorted(get_type_hints(Client))
TWINS = {"": (Client, AsyncClient)} | {n: (get_type_hints(Client)[n], get_type_hints(AsyncClient)[n]) for n in NOUNS}
#: Only one of them has it, and why: a thread's work, or what the other one is made of.
OWN = {"Client.open", "Execs.run_on", "Execs.list_on", "Execs.session", "Execs.prepare"}
#: What takes output runs in a thread of the blocking client, and on the loop of the other.
DIFFERENT_TYPES = {("Execs.run", "on_output"), ("Execs.attach", "on_output"), ("Execs.run", "stdin")}
#: These have a docstring of their own: Ctrl-C is for who blocks.
OWN_WORDS = {"Execs.run", "Client.close"}


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    noun = kind.__name__.removeprefix("Async").removeprefix("Blocking")
    for name, one in inspect.getmembers(kind, lambda one: inspect.isfunction(one) or inspect.ismethod(one)):
        if not name.startswith("_") and f"{noun}.{name}" not in OWN:
            yield f"{noun}.{name}", one


BLOCKING = {name: one for blocking, _ in TWINS.values() for name, one in methods(blocking)}
OTHER = {name: one for _, other in TWINS.values() for name, one in methods(other)}


def parameters(method: Callable[..., Any]) -> dict[str, tuple[object, object]]:
    return {one.name: (one.kind, one.default) for one in inspect.signature(method).parameters.values()}


def test_each_noun_has_a_twin() -> None:
    assert sorted(get_type_hints(AsyncClient)) == NOUNS


def test_each_method_has_a_twin() -> None:
    assert set(BLOCKING) == set(OTHER)
    assert len(BLOCKING) > 30


@pytest.mark.parametrize("name", sorted(BLOCKING))
def test_twins_take_the_same(name: str) -> None:
    blocking, other = BLOCKING[name], OTHER[name]

    assert parameters(blocking) == parameters(other)
    for parameter, annotation in blocking.__annotations__.items():
        if parameter != "return" and (name, parameter) not in DIFFERENT_TYPES:
            assert annotation == other.__annotations__[parameter], parameter


@pytest.mark.parametrize("name", sorted(BLOCKING))
def test_twins_give_the_same_and_say_the_same(name: str) -> None:
    blocking, other = BLOCKING[name], OTHER[name]

    assert blocking.__annotations__["return"] == other.__annotations__["return"].replace("AsyncClient", "Client")
    assert blocking.__doc__
    assert blocking.__doc__ == other.__doc__ or name in OWN_WORDS


@pytest.mark.parametrize("name", sorted(BLOCKING))
def test_one_of_them_blocks_and_is_called_what_it_is(name: str) -> None:
    assert not inspect.iscoroutinefunction(BLOCKING[name])
    assert inspect.iscoroutinefunction(OTHER[name])
    assert BLOCKING[name].__qualname__.removeprefix("Blocking") == name
