"""A client that is closed, or not open yet, says so from every method, at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest

from broker.address import Address
from schemas.endpoints import Endpoint
from schemas.execs import ExecRun
from schemas.ids import uuid7
from schemas.ledger import RegistryRow
from schemas.vms import VmStart, VmState, VmStatus
from volcloud import AsyncClient, Client
from volcloud.client.looks import LogPage
from volcloud.client.shell_session import Keys
from volcloud.errors import ClientNotOpen
from volcloud.loop_thread import LoopThread

#: Nobody listens there.
NOWHERE = Address(user="console-a", password="b", endpoints=(Endpoint("127.0.0.1", 1),))
VM = VmStatus(vm="v", name="a", state=VmState.RUNNING, generation=1, hypervisor="x", cpus=1, memory_mib=1, disk_mib=1)
ROW = RegistryRow(host="host-a", status=VM, seen_ms=1)
#: What stands for a parameter that has no default.
ARGUMENTS: dict[str, Any] = {
    "command": ["true"],
    "directory": "/nowhere",
    "host": "host-a",
    "id": uuid7(),
    "job": {"id": "j", "executable": "/bin/true"},
    "keys": Keys(0, print),
    "local": __file__,
    "name": "j-1",
    "on_output": lambda *_: None,
    "order": ExecRun(command=["true"]),
    "page": LogPage(vm="v", host="host-a", boot="", text=b"", next_at=0),
    "output": "result",
    "path": __file__,
    "pattern": "*",
    "row": ROW,
    "rows": [ROW],
    "site": "cern",
    "source": "lyon",
    "verb": VmStart,
    "vm": "a",
}


#: Gives for each VM its answer or its error: this one is one of them.
EACH_BY_ITSELF = {("vms", "stats_of")}


def methods(client: type) -> list[tuple[str, str]]:
    every = [(noun, name) for noun, kind in get_type_hints(client).items() for name, _ in public(kind)]
    return [one for one in every if client is Client or one not in EACH_BY_ITSELF]


def public(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    return ((n, one) for n, one in inspect.getmembers(kind, inspect.isfunction) if not n.startswith("_"))


def called(room: object, name: str) -> Any:
    method = getattr(room, name)
    needed = [
        p
        for p in inspect.signature(method).parameters.values()
        if p.default is p.empty and p.name != "self" and p.kind is not p.VAR_KEYWORD
    ]
    return method(*[ARGUMENTS[one.name] for one in needed])


async def used(client: AsyncClient, noun: str, name: str) -> None:
    result = called(getattr(client, noun), name)
    if inspect.isawaitable(result):
        await result


@pytest.mark.parametrize(("noun", "name"), methods(AsyncClient))
async def test_who_uses_a_client_for_asyncio_before_it_is_open_is_told_to_open_it(noun: str, name: str) -> None:
    client = AsyncClient(NOWHERE)

    with pytest.raises(ClientNotOpen, match="not open yet") as raised:
        await used(client, noun, name)

    assert "client.open()" in raised.value.next_step


@pytest.mark.parametrize(("noun", "name"), methods(AsyncClient))
async def test_who_uses_a_client_for_asyncio_after_its_end_is_told_to_connect(noun: str, name: str) -> None:
    client = AsyncClient(NOWHERE)
    await client.close()

    with pytest.raises(ClientNotOpen, match="is closed") as raised:
        await used(client, noun, name)

    assert "connect" in raised.value.next_step


@pytest.mark.parametrize(("noun", "name"), methods(Client))
def test_who_uses_a_blocking_client_after_its_end_is_told_to_connect(noun: str, name: str) -> None:
    client, thread = AsyncClient(NOWHERE), LoopThread("test")
    room = get_type_hints(Client)[noun](getattr(client, noun), thread)
    thread.close(client.close)

    with pytest.raises(ClientNotOpen, match="is closed"):
        called(room, name)
