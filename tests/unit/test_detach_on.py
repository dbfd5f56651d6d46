"""Commands that are begun in many VMs and left running: all at once, and one that cannot keeps no other from it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.errors import CallTimeout
from broker.routes import Route
from schemas.envelope import Done
from schemas.execs import ExecDetach, ExecKill
from schemas.ledger import RegistryRow
from tests.broker.polling import until
from volcloud.client import execs
from volcloud.client.execs import AsyncExecs
from volcloud.errors import CommandFailed


class Guests:
    """Answers when as many have been asked at once as it waits for; ``vm-3`` never does."""

    def __init__(self, awaited: int) -> None:
        self.orders: list[ExecDetach] = []
        self.at_once = self.most_at_once = 0
        self._awaited, self._are_there = awaited, asyncio.Event()
        self.answers_at_once = ""
        self.killed: list[str] = []

    async def call(self, vm: str, order: ExecDetach, kind: type[Done], **limits: float) -> Done:
        self.orders.append(order)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if len(self.orders) == self._awaited:
            self._are_there.set()
        if vm != self.answers_at_once:
            await self._are_there.wait()
        self.at_once -= 1
        if vm == "vm-3":
            raise CallTimeout("it does not answer", accepted=True)
        return Done(call=order.id)

    def send(self, route: Route, order: ExecKill) -> None:
        self.killed.append(order.exec_id)


def rows(count: int, state: str = "running") -> list[RegistryRow]:
    return [
        cast(RegistryRow, SimpleNamespace(status=SimpleNamespace(vm=f"vm-{n}", name=f"w-{n}", state=state)))
        for n in range(count)
    ]


def execs_of(guests: Guests) -> AsyncExecs:
    return AsyncExecs(cast(Any, SimpleNamespace(caller=guests)), cast(Any, None))


async def test_all_are_asked_at_once_and_each_has_an_id_of_its_own() -> None:
    guests = Guests(awaited=5)

    async with asyncio.timeout(30):
        begun = await execs_of(guests).detach_on([*rows(5), *rows(1, "poweredoff")], ["true"])

    assert isinstance(begun[3], CallTimeout)
    assert isinstance(begun[5], CommandFailed)
    ids = [one for one in begun if isinstance(one, str)]
    assert len({*ids}) == 4
    assert {*ids} < {order.id for order in guests.orders}


async def test_no_more_are_asked_at_once_than_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "MOST_AT_ONCE", 2)
    guests = Guests(awaited=2)

    async with asyncio.timeout(30):
        begun = await execs_of(guests).detach_on(rows(6), ["true"])

    assert (guests.most_at_once, len(begun)) == (2, 6)


async def test_what_has_begun_is_told_at_once_and_what_is_under_way_is_ended_by_who_is_interrupted() -> None:
    guests, told = Guests(awaited=9), dict[str, str]()
    guests.answers_at_once = "vm-1"
    begin = execs_of(guests).detach_on(
        rows(3), ["true"], on_begun=lambda row, exec_id: told.update({row.status.vm: exec_id})
    )
    work = asyncio.ensure_future(begin)
    await until(lambda: told and len(guests.orders) == 3)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    assert list(told) == ["vm-1"]
    assert sorted(guests.killed) == sorted(order.id for order in guests.orders if order.id != told["vm-1"])
