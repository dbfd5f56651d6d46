"""The blocking client and the one for asyncio are twins: the same methods, with the same parameters and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from volcloud.async_client import AsyncClient
from volcloud.client import Client

#: Only one of them has it, and why: a thread's work, or what the other one is made of.
OWN = {
    Client: {"run_on"},
    AsyncClient: {"open", "execution", "vm_named", "ref_of", "submit_description"},
}
#: What takes output runs in a thread of the blocking client, and on the loop of the other.
DIFFERENT_TYPES = {("run", "on_output"), ("run", "command")}


def methods(client: type) -> dict[str, Callable[..., Any]]:
    found = inspect.getmembers(client, lambda one: inspect.isfunction(one) or inspect.ismethod(one))
    return {name: one for name, one in found if not name.startswith("_") and name not in OWN[client]}


def parameters(method: Callable[..., Any]) -> dict[str, tuple[object, object]]:
    return {one.name: (one.kind, one.default) for one in inspect.signature(method).parameters.values()}


def test_each_method_has_a_twin() -> None:
    assert set(methods(Client)) == set(methods(AsyncClient))


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_twins_take_the_same(name: str) -> None:
    blocking, other = methods(Client)[name], methods(AsyncClient)[name]

    assert parameters(blocking) == parameters(other)
    for parameter, annotation in blocking.__annotations__.items():
        if parameter != "return" and (name, parameter) not in DIFFERENT_TYPES:
            assert annotation == other.__annotations__[parameter], parameter


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_twins_give_the_same(name: str) -> None:
    given = methods(Client)[name].__annotations__["return"]

    assert given.replace("Client", "") == methods(AsyncClient)[name].__annotations__["return"].replace(
        "AsyncClient", ""
    )
