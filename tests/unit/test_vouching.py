"""A host says which VMs it has when its link is new, and from time to time, whatever fails in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import Disconnected
from broker.keys.store import EnrolledVm, EnrolmentStore
from broker.management import Management
from broker.management.users import Users
from broker.node import NodeAddress
from host_agent.vouching import Vouching
from schemas.enrol import EnrolVouch
from tests.broker.polling import until
from volcloud.commands.broker import _unvouched


async def test_a_host_vouches_again_and_again_and_at_once_when_the_link_is_new() -> None:
    said: list[tuple[list[str], list[str]]] = []
    failures = [Disconnected("away")]

    async def vms() -> tuple[set[str], set[str]]:
        return {"vm-b", "vm-a"}, {"vm-c"}

    async def say(word: EnrolVouch) -> None:
        if failures:
            raise failures.pop()
        said.append((word.vms, word.aside))

    vouching = Vouching(vms, say, every_s=0.05)
    running = asyncio.ensure_future(vouching.run())

    await until(lambda: len(said) >= 2)
    running.cancel()
    vouching = Vouching(vms, say, every_s=1000)
    said.clear()
    running = asyncio.ensure_future(vouching.run())
    await until(lambda: len(said) == 1)
    vouching.look()
    await until(lambda: len(said) == 2)

    assert said == [(["vm-a", "vm-b"], ["vm-c"])] * 2
    running.cancel()


def test_an_operator_sees_who_is_not_vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`volcloud broker check` once called well what nobody knew any more."""
    store = EnrolmentStore(tmp_path / "keys.sqlite")
    for vm, disowned in (("vm-lost", True), ("vm-kept", False), ("vm-no-user", True)):
        store.put(EnrolledVm(vm=vm, host="host-a", generation=1, disowned=disowned))
    monkeypatch.setattr(Users, "names", lambda _: ["vm-lost", "vm-kept", "host-a"])
    node = NodeAddress(host="h", amqp_port=1, management_port=2, prometheus_port=3, admin_user="a", admin_password="b")

    found = [str(one) for one in _unvouched(Management(node.administration), tmp_path / "keys.sqlite")]

    why = "host-a says that it has no such VM; it goes in 60 min"
    assert found == [f"user vm-lost: expected a host that vouches for it, found {why}"]
    assert _unvouched(Management(node.administration), tmp_path / "none.sqlite") == []
    store.close()
