"""Many consoles of one person at the broker, and one too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.address import Address
from broker.management import Management
from volcloud import async_client
from volcloud.async_client import AsyncClient
from volcloud.errors import Unreachable

Mint = Callable[..., Address]


async def test_a_person_may_have_many_consoles(mint: Mint) -> None:
    person = mint("console")
    clients = [AsyncClient(person) for _ in range(20)]

    await asyncio.gather(*(client.open() for client in clients))

    await asyncio.gather(*(client.close() for client in clients))


async def test_one_too_many_is_told_which_limit_it_is(
    mint: Mint, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_client, "PATIENCE_S", 2.0)
    person = mint("console")
    management.users.put_limit(person.user, "max-connections", 1)

    first = AsyncClient(person)
    await first.open()
    async with first:
        with pytest.raises(Unreachable, match=f"{person.user} has as many connections as it may") as refused:
            await AsyncClient(person).open()

    assert "limit (1) is reached" in refused.value.message
    assert "volcloud up" not in refused.value.next_step
