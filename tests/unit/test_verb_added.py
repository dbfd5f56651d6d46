"""A verb is one row and its command: whoever adds one finds it wherever verbs are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.rpc import Handler
from docs.generate import vms_page
from host_agent.commands import VmCommands
from host_agent.errors import IllegalVerb, Interrupted
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.verbs import TRANSITIONS, DriverOrder, More, Transition, verb_of
from host_agent.vm import Verb, Wish
from schemas.envelope import Message
from schemas.vms import VmCommand, VmState, vm_verbs
from tests.broker.polling import until
from tests.unit.test_control import Host

HOVER = "hover"


class Hovers(FakeHypervisor):
    """A driver that can do what the others cannot: it takes its time, and leaves the VM frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[DriverOrder] = []
        self.may_end = asyncio.Event()

    async def hover(self, order: DriverOrder) -> None:
        self.seen.append(order)
        await self.may_end.wait()
        await self.pause(order.vm)


async def _hover(driver: object, order: DriverOrder) -> None:
    assert isinstance(driver, Hovers)
    await driver.hover(order)


@pytest.fixture
def hover(monkeypatch: pytest.MonkeyPatch) -> tuple[Verb, type[VmCommand]]:
    class VmHover(VmCommand, frozen=True, kw_only=True, tag="vm.hover"):
        """Let a VM hover over its host."""

    row = Transition(
        message=VmHover,
        do=_hover,
        legal_from=frozenset({VmState.RUNNING}),
        through=VmState.PAUSING,
        goal=VmState.PAUSED,
        done_in=frozenset({VmState.PAUSED}),
        wish=Wish.PAUSED,
        wishes_at_once=False,
        raises_generation=True,
        repeatable=False,
        interruptible=True,
    )
    monkeypatch.setitem(TRANSITIONS, HOVER, row)  # type: ignore[arg-type]
    return HOVER, VmHover  # type: ignore[return-value]


async def test_the_agent_carries_it_out_as_its_row_says(tmp_path: Path, hover: tuple[Verb, type[VmCommand]]) -> None:
    verb, _ = hover
    driver = Hovers()
    host = await Host(tmp_path, driver).open()
    vm = await host.vm()

    with pytest.raises(IllegalVerb, match="is poweredoff: hover is allowed from running"):
        await host.control.act(verb, vm)
    await host.control.act(Verb.START, vm)
    acting = asyncio.ensure_future(host.control.act(verb, vm, More(timeout_s=7.0), by="console-ada"))
    await until(lambda: driver.seen)
    act = host.control.act_on(vm)
    driver.may_end.set()
    status = await acting

    assert act is not None
    assert (act.verb, act.by) == ("hover", "console-ada")
    assert (status.state, status.generation) == (VmState.PAUSED, 2)
    assert (driver.seen[0].more.timeout_s, driver.seen[0].seed != b"") == (7.0, True)
    assert host.registry.get(vm).wish is Wish.PAUSED
    assert (await host.control.act(verb, vm)).state is VmState.PAUSED
    assert len(driver.seen) == 1


async def test_it_may_be_cut_short_as_its_row_says(tmp_path: Path, hover: tuple[Verb, type[VmCommand]]) -> None:
    verb, _ = hover
    driver = Hovers()
    host = await Host(tmp_path, driver).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    acting = asyncio.ensure_future(host.control.act(verb, vm))
    await until(lambda: driver.seen)

    await host.control.act(Verb.POWEROFF, vm)

    with pytest.raises(Interrupted, match="hover was cut short by poweroff"):
        await acting


async def test_the_agent_takes_its_command(tmp_path: Path, hover: tuple[Verb, type[VmCommand]]) -> None:
    verb, kind = hover
    host = await Host(tmp_path, Hovers()).open()
    handlers: dict[type[Message], Handler] = VmCommands(
        host.control,
        None,  # type: ignore[arg-type]
        host.statuses,
        lambda name: False,  # type: ignore[arg-type]
    ).handlers()

    assert verb_of(kind) == verb
    assert not handlers[kind].repeatable


def test_people_find_it_in_the_page_and_among_the_words_that_they_may_type(
    hover: tuple[Verb, type[VmCommand]],
) -> None:
    _, kind = hover

    assert vm_verbs()["hover"] is kind
    assert "| `hover` | `pausing` | `paused` | yes | `paused` | may be cut short |" in vms_page()


def test_each_command_on_one_vm_has_its_row() -> None:
    ours = {word: kind for word, kind in vm_verbs().items() if kind.__module__ == VmCommand.__module__}

    assert ours == {str(verb): row.message for verb, row in TRANSITIONS.items() if row.message is not None}
