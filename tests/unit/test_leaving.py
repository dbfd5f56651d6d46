"""VMs that are gone: their principals are revoked once, whatever crashes or is away in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import BrokerError, CallTimeout, RemoteError
from host_agent import leaving as leaving_module
from host_agent.leaving import Leaving
from host_agent.registry import VmRecord, VmRegistry
from schemas.errors import ErrorCode
from tests.contract.conftest import eventually


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    real = leaving_module.backoff
    monkeypatch.setattr(leaving_module, "backoff", lambda *_: real(0.001, 0.01))


class Keys:
    """A key manager that fails as it is told to, and then answers."""

    def __init__(self, *failures: BrokerError) -> None:
        self.failures = list(failures)
        self.asked: list[str] = []

    async def revoke(self, vm: str) -> None:
        self.asked.append(vm)
        if self.failures:
            raise self.failures.pop(0)


def registry_of(directory: Path, *vms: str) -> VmRegistry:
    registry = VmRegistry(directory / "vms.json")
    registry.load()
    for vm in vms:
        registry.put(VmRecord(vm=vm, name=vm, cpus=1, memory_mib=64, disk_mib=1024))
        registry.remove(vm)
    return registry


async def see_off(registry: VmRegistry, keys: Keys) -> None:
    task = asyncio.ensure_future(Leaving(registry, keys.revoke).run())
    await eventually(lambda: not registry.leaving)
    task.cancel()


async def test_a_key_manager_that_is_away_is_asked_again_until_it_answers(tmp_path: Path) -> None:
    registry, keys = registry_of(tmp_path, "vm-a"), Keys(CallTimeout("no answer"), BrokerError("the link broke"))

    await see_off(registry, keys)

    assert keys.asked == ["vm-a"] * 3


async def test_what_a_killed_agent_did_not_live_to_ask_the_next_one_asks(tmp_path: Path) -> None:
    registry_of(tmp_path, "vm-a", "vm-b")
    keys = Keys()

    await see_off(registry_of(tmp_path), keys)

    assert keys.asked == ["vm-a", "vm-b"]
    assert registry_of(tmp_path).leaving == ()


async def test_a_no_is_an_answer(tmp_path: Path) -> None:
    registry, keys = registry_of(tmp_path, "vm-a"), Keys(RemoteError(ErrorCode.FORBIDDEN, "not a VM of this host"))

    await see_off(registry, keys)

    assert keys.asked == ["vm-a"]


async def test_a_vm_that_goes_while_others_are_seen_off_is_seen_off_too(tmp_path: Path) -> None:
    registry, keys = registry_of(tmp_path, "vm-a"), Keys()
    leaving = Leaving(registry, keys.revoke)
    task = asyncio.ensure_future(leaving.run())
    await eventually(lambda: not registry.leaving)

    registry.remove("vm-b")
    leaving.look()
    await eventually(lambda: not registry.leaving)
    task.cancel()

    assert keys.asked == ["vm-a", "vm-b"]


async def test_one_that_cannot_be_seen_off_holds_up_no_other(tmp_path: Path) -> None:
    class Refuses(Keys):
        async def revoke(self, vm: str) -> None:
            self.asked.append(vm)
            if vm == "vm-a":
                raise RemoteError(ErrorCode.INTERNAL, "the broker refused")

    registry, keys = registry_of(tmp_path, "vm-a", "vm-b"), Refuses()
    task = asyncio.ensure_future(Leaving(registry, keys.revoke).run())

    await eventually(lambda: registry.leaving == ("vm-a",) and keys.asked.count("vm-a") > 2)
    task.cancel()
