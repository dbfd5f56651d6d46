"""What was said of a VM within the last second serves who gives it one command after another, and nobody else; one
that was made in the last second is found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.envelope import Done
from schemas.ledger import Registry, RegistryRow
from schemas.vms import VmPause, VmState, VmStatus
from volcloud.client import vms as vms_module
from volcloud.client.vms import AsyncVms
from volcloud.errors import NoSuchVm


class Centre:
    """Tells of any VM that it is asked for, and counts how often."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        #: How often it says that it knows none.
        self.blind = 0

    async def ask(self, question: Any, kind: type[Registry]) -> Registry:
        self.asked.append(question.pattern)
        if self.blind:
            self.blind -= 1
            return Registry(call="c", vms=[])
        status = VmStatus(
            vm=f"vm-{question.pattern}",
            name=question.pattern,
            state=VmState.RUNNING,
            generation=1,
            hypervisor="fake",
            cpus=1,
            memory_mib=64,
            disk_mib=1024,
        )
        return Registry(call="c", vms=[RegistryRow(host="host-a", seen_ms=0, status=status)])

    async def call(self, host: str, order: Any, kind: type[Any], **limits: float) -> Done:
        return Done(call=order.id)


@pytest.fixture
def centre() -> Centre:
    return Centre()


@pytest.fixture
def vms(centre: Centre) -> AsyncVms:
    return AsyncVms(cast(Any, SimpleNamespace(centre=centre, caller=centre)), cast(Any, None))


async def test_it_is_asked_for_once_a_second_and_by_the_name_that_is_meant(
    vms: AsyncVms, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(vms_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for name in ("a", "a", "b", "a"):
        assert (await vms.recent(name)).status.name == name
    assert centre.asked == ["a", "b"]

    now[0] += vms_module.RECENT_S + 0.1
    await vms.recent("a")

    assert centre.asked == ["a", "b", "a"]


async def test_one_whose_making_the_centre_has_not_heard_of_yet_is_found(vms: AsyncVms, centre: Centre) -> None:
    centre.blind = 3

    assert (await vms.get("new")).status.name == "new"


async def test_one_that_there_is_not_is_not_waited_for_long(
    vms: AsyncVms, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(vms_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def sleep(for_s: float) -> None:
        now[0] += for_s

    monkeypatch.setattr(vms_module, "asyncio", SimpleNamespace(sleep=sleep))
    centre.blind = 1000
    with pytest.raises(NoSuchVm):
        await vms.get("none")

    assert now[0] - 100.0 < vms_module.HEARD_S + 0.2


async def test_after_a_verb_it_is_asked_for_anew(vms: AsyncVms, centre: Centre) -> None:
    row = await vms.recent("a")
    await vms.command(row, VmPause)
    await vms.recent("a")

    assert centre.asked == ["a", "a"]


async def test_who_asks_for_very_many_makes_nothing_grow(
    vms: AsyncVms, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vms_module, "MOST_RECENT", 10)
    for number in range(100):
        await vms.recent(f"w-{number}")

    assert len(vms._recent) <= 10
