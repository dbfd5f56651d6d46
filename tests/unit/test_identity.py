"""A VM's identity: a refusal that passes costs nothing, a newer generation replaces the older."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from broker import durable
from broker.address import Address
from broker.errors import BrokerError
from guest_agent.agent import GuestAgent
from guest_agent.centre import BrokerCentre
from guest_agent.identity import Identity, KeptCredential
from guest_agent.seed import SeedSource
from schemas.endpoints import Endpoint
from schemas.envelope import Message
from schemas.seed import Seed, encode_seed
from tests.broker.polling import until


def seed_of(generation: int) -> Seed:
    return Seed(
        vm="vm-1",
        name="one",
        generation=generation,
        endpoints=(Endpoint("127.0.0.1", 1),),
        vhost="v",
        login_user="once-1",
        login_password="x",
    )


def address_of(password: str) -> Address:
    return Address(endpoints=(Endpoint("127.0.0.1", 1),), user="vm-1", password=password)


class Traded(Identity):
    """An identity whose trades are answered by the test."""

    answer: Address | None = None
    trades = 0

    async def _trade(self, seed: Seed) -> Address:
        self.trades += 1
        if self.answer is None:
            raise BrokerError("the one-time login has been used")
        return self.answer


async def identity_of(directory: Path, generation: int = 1) -> Traded:
    (directory / "seed").write_bytes(encode_seed(seed_of(generation)))
    identity = Traded(SeedSource(directory / "seed"), directory)
    await identity.load()
    return identity


def keep(directory: Path, generation: int, password: str) -> None:
    kept = KeptCredential("vm-1", generation, address_of(password))
    (directory / "credential.json").write_bytes(msgspec.json.encode(kept))


async def test_a_kept_credential_is_used_without_a_trade(tmp_path: Path) -> None:
    keep(tmp_path, 1, "mine")
    identity = await identity_of(tmp_path)

    assert (await identity.address(False)).password == "mine"
    assert identity.trades == 0


async def test_a_refusal_that_may_pass_keeps_the_credential(tmp_path: Path) -> None:
    keep(tmp_path, 1, "mine")
    identity = await identity_of(tmp_path)

    assert (await identity.address(True)).password == "mine"
    assert (await identity.address(False)).password == "mine"


async def test_a_refusal_with_a_newer_seed_at_hand_is_traded(tmp_path: Path) -> None:
    keep(tmp_path, 1, "old")
    identity = await identity_of(tmp_path)
    identity.answer = address_of("new")
    (tmp_path / "seed").write_bytes(encode_seed(seed_of(2)))

    assert (await identity.address(True)).password == "new"
    assert identity.generation == 2
    await identity.kept()
    assert (await (await identity_of(tmp_path, 2)).address(False)).password == "new"


async def test_a_credential_of_an_older_generation_is_not_used(tmp_path: Path) -> None:
    keep(tmp_path, 1, "old")
    identity = await identity_of(tmp_path, 2)

    with pytest.raises(BrokerError, match="has been used"):
        await identity.address(False)


async def test_a_credential_that_the_disk_does_not_take_is_used_and_is_kept_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = durable.replace, [True]

    def replace(path: Path, body: bytes) -> None:
        if full:
            full.append(True)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, body)

    monkeypatch.setattr(durable, "replace", replace)
    identity = await identity_of(tmp_path)
    identity.answer = address_of("mine")

    used = [(await identity.address(False)).password for _ in range(2)]
    waiting = [asyncio.create_task(identity.kept()) for _ in range(2)]
    await until(lambda: len(full) > 2)
    before = [one.done() for one in waiting]
    full.clear()
    await asyncio.gather(*waiting)
    identity.answer = None

    assert (used, identity.trades, before) == (["mine", "mine"], 1, [False, False])
    assert (await (await identity_of(tmp_path)).address(False)).password == "mine"


async def test_a_credential_whose_writing_hangs_does_not_replace_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, goes_on = durable.replace, threading.Event(), threading.Event()

    def replace(path: Path, body: bytes) -> None:
        if not begun.is_set():
            begun.set()
            goes_on.wait(20)
        real(path, body)

    monkeypatch.setattr(durable, "replace", replace)
    identity = await identity_of(tmp_path)
    identity.answer = address_of("old")
    await identity.address(False)
    await until(begun.is_set)
    identity.renew(encode_seed(seed_of(2)))
    identity.answer = address_of("new")
    await identity.address(False)

    waiting = asyncio.create_task(identity.kept())
    goes_on.set()
    await waiting

    assert (await (await identity_of(tmp_path, 2)).address(False)).password == "new"


async def test_a_credential_is_confirmed_once_it_is_kept_and_not_before() -> None:
    is_kept, said = asyncio.Event(), list[str]()

    async def say(way: str, message: Message) -> None:
        said.append(way)

    agent = GuestAgent.__new__(GuestAgent)
    agent.identity = cast(Any, SimpleNamespace(kept=is_kept.wait))
    agent._centre = cast(Any, SimpleNamespace(confirms=BrokerCentre.confirms))
    agent._uplink = cast(Any, SimpleNamespace(say=say))

    confirming = asyncio.create_task(agent._confirm())
    await asyncio.wait([confirming], timeout=0.05)
    before = list(said)
    is_kept.set()
    await confirming

    assert (before, said) == ([], ["enrol"])


async def test_a_credential_of_before_is_not_used_once_there_is_a_newer_seed(tmp_path: Path) -> None:
    identity = await identity_of(tmp_path)
    identity.answer = address_of("mine")
    assert (await identity.address(False)).password == "mine"
    identity.answer = address_of("new")
    identity.renew(encode_seed(seed_of(2)))

    assert (await identity.address(False)).password == "new"
