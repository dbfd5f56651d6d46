"""Many consoles of one person at the broker, and one too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.address import Address
from broker.management import Management
from volcloud import AsyncClient, Client
from volcloud.client import session
from volcloud.errors import ClientNotOpen, Unreachable

Mint = Callable[..., Address]


async def test_a_person_may_have_many_consoles(mint: Mint) -> None:
    person = mint("console")
    clients = [AsyncClient(person) for _ in range(20)]

    await asyncio.gather(*(client.open() for client in clients))

    sessions = [client._session for client in clients]
    assert all(one.connection.is_up for one in sessions)
    assert len({one.caller.suffix for one in sessions}) == len(clients), "each has a queue of its own"
    await asyncio.gather(*(client.close() for client in clients))


async def test_one_too_many_is_told_which_limit_it_is(
    mint: Mint, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE_S", 2.0)
    person = mint("console")
    management.users.put_limit(person.user, "max-connections", 1)

    first = AsyncClient(person)
    await first.open()
    async with first:
        with pytest.raises(Unreachable, match=f"{person.user} has as many connections as it may") as refused:
            await AsyncClient(person).open()

    assert "limit (1) is reached" in refused.value.message
    assert "volcloud up" not in refused.value.next_step


def test_a_client_that_was_closed_says_so(mint: Mint) -> None:
    with Client(mint("console")) as cloud:
        vms = cloud.vms
        assert repr(cloud).endswith(", open>")

    for ask in (cloud.hosts.list, vms.list):
        with pytest.raises(ClientNotOpen, match="the client is closed"):
            ask()
    assert repr(cloud).endswith(", closed>")
