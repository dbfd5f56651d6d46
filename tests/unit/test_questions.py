"""Questions about VMs: answered in time whatever a hypervisor does, and each VM's hold up nobody else's."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from host_agent import questions
from host_agent.errors import LookTimedOut, UnknownVm, Unsupported
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.questions import MOST_AT_ONCE, VmQuestions
from host_agent.vm import Verb
from schemas.looks import (
    SCREEN_PART_BYTES,
    ScreenPart,
    ScreenReply,
    VmLog,
    VmQuestion,
    VmScreenshot,
    VmStats,
    VmStatsReply,
)  # fmt: skip
from schemas.vms import VmState
from tests.unit.test_control import Host


class Caller:
    """Keeps what is sent before the answer."""

    def __init__(self) -> None:
        self.sent: list[ScreenPart] = []

    async def send(self, part: ScreenPart) -> None:
        self.sent.append(part)


class Screens:
    """Gives a picture of so many bytes, or none for the VM that hangs."""

    def __init__(self, size: int, hangs: str = "") -> None:
        self._picture, self._hangs = bytes(n % 251 for n in range(size)), hangs

    async def take(self, vm: str) -> bytes:
        if vm == self._hangs:
            await asyncio.Event().wait()
        return self._picture


async def host_with(directory: Path, *names: str) -> tuple[Host, list[str]]:
    host = await Host(directory, FakeHypervisor()).open()
    vms = [await host.vm(name) for name in names]
    for vm in vms:
        await host.control.act(Verb.START, vm)
    return host, vms


def show(host: Host, screens: Screens) -> None:
    host.hypervisor.capabilities = msgspec.structs.replace(host.hypervisor.capabilities, screenshots=screens)


def ask(host: Host, question: VmQuestion, caller: Caller | None = None, asked: VmQuestions | None = None) -> Any:
    asked = asked or VmQuestions(host.hypervisor, host.registry, host.aside, host.statuses)
    return cast(Any, asked.handlers()[type(question)].run(cast(Any, caller or Caller()), question))


async def test_a_large_picture_comes_in_parts_that_make_it_whole(tmp_path: Path) -> None:
    host, [vm] = await host_with(tmp_path, "a")
    show(host, Screens(2 * SCREEN_PART_BYTES + 1))
    caller = Caller()

    end = await ask(host, VmScreenshot(vm=vm), caller)

    picture = b"".join(part.data for part in caller.sent)
    assert [part.number for part in caller.sent] == [0, 1, 2]
    assert isinstance(end, ScreenReply)
    assert (end.parts, end.size, end.sha256) == (3, len(picture), hashlib.sha256(picture).hexdigest())


async def test_a_hypervisor_that_hangs_holds_up_its_own_vm_and_is_told_of_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "LOOK_S", 0.3)
    host, [hung, other] = await host_with(tmp_path, "a", "b")
    show(host, Screens(10, hangs=hung))
    asked = VmQuestions(host.hypervisor, host.registry, host.aside, host.statuses)

    many = [asyncio.ensure_future(ask(host, VmScreenshot(vm=hung), asked=asked)) for _ in range(3 * MOST_AT_ONCE)]
    answered = await ask(host, VmScreenshot(vm=other), asked=asked)
    async with asyncio.timeout(30):
        found = await asyncio.gather(*many, return_exceptions=True)

    assert isinstance(answered, ScreenReply)
    assert all(isinstance(one, LookTimedOut) for one in found)
    assert "poweroff" in str(found[0])


async def test_what_nobody_knows_is_refused_and_what_is_set_aside_is_looked_at(tmp_path: Path) -> None:
    host, [vm] = await host_with(tmp_path, "a")
    (tmp_path / "vms.json").unlink()
    after = await Host(tmp_path, FakeHypervisor(host.hypervisor.host)).open()

    told = await ask(after, VmStats(vm=vm))

    assert isinstance(told, VmStatsReply)
    assert (told.state, bool(told.counters.life)) == (VmState.SET_ASIDE, True)
    with pytest.raises(UnknownVm):
        await ask(after, VmStats(vm="vm-host-a-nobody"))


async def test_a_driver_without_the_port_refuses_with_its_name(tmp_path: Path) -> None:
    host, [vm] = await host_with(tmp_path, "a")

    with pytest.raises(Unsupported, match="fake"):
        await ask(host, VmLog(vm=vm))
