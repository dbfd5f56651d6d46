"""Unconfirmed publishes: each gets its end, and what the broker says of one is no word on another."""

from __future__ import annotations

import asyncio

import pytest

from broker.confirms import Confirms
from broker.errors import BrokerError, Disconnected, Forbidden, QueueGone, Unroutable

TOPIC = "ACCESS_REFUSED - access to topic 'vm-b.beat' in exchange 'vc.up' in vhost 'v' refused for user 'vm-a'"


async def published(confirms: Confirms, *routes: tuple[str, str]) -> list[asyncio.Future[None]]:
    futures = [asyncio.get_running_loop().create_future() for _ in routes]
    for number, (future, (exchange, key)) in enumerate(zip(futures, routes, strict=True)):
        confirms.await_one(future, f"m{number}", exchange, key)
    return futures


@pytest.mark.parametrize(
    ("said", "final"),
    [
        (Forbidden(TOPIC), Forbidden),
        (Forbidden("ACCESS_REFUSED - access to exchange 'vc.dead' in vhost 'v' refused for user 'vm-a'"), Forbidden),
        (QueueGone("NOT_FOUND - no exchange 'vc.dead' in vhost 'v'"), Unroutable),
    ],
)
async def test_only_what_the_broker_names_fails_for_good(said: BrokerError, final: type[BrokerError]) -> None:
    confirms = Confirms()
    bad = ("vc.up", "vm-b.beat") if "topic" in str(said) else ("vc.dead", "")
    good, named = await published(confirms, ("vc.up", "vm-a.beat"), bad)

    confirms.blame(said)
    confirms.break_off(Disconnected(str(said)))

    assert type(named.exception()) is final
    assert type(good.exception()) is Disconnected


async def test_a_name_that_the_broker_cuts_short_is_known_all_the_same() -> None:
    confirms = Confirms()
    key = "vm-b." + "y" * 240
    good, named = await published(confirms, ("vc.up", "vm-a.beat"), ("vc.up", key))

    confirms.blame(Forbidden(f"ACCESS_REFUSED - access to topic '{key}"[:250] + "..."))

    assert isinstance(named.exception(), Forbidden)
    assert not good.done()


async def test_a_refusal_that_names_nothing_is_final_for_nobody() -> None:
    confirms = Confirms()
    (one,) = await published(confirms, ("vc.up", "vm-a.beat"))

    confirms.blame(Forbidden("ACCESS_REFUSED - operation not permitted on the default exchange"))
    confirms.blame(Disconnected("CONNECTION_FORCED"))

    assert not one.done()
