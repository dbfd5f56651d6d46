"""Waits with a limit: Python 3.11's ``wait_for`` swallows a cancel that comes as it ends, so nobody of us uses it."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from host_agent.leaving import Leaving
from host_agent.registry import VmRecord, VmRegistry
from host_agent.vouching import Vouching
from schemas.enrol import EnrolVouch
from tests.source import MODULES, lines_where, modules_in

OTHERS = modules_in("deploy", "benchmarks", "examples")


def names_it(node: ast.AST) -> bool:
    """Say whether this is ``asyncio.wait_for``, or brings it in by its own name."""
    match node:
        case ast.Attribute(value=ast.Name(id="asyncio"), attr="wait_for"):
            return True
        case ast.ImportFrom(module="asyncio", names=names):
            return any(alias.name in ("wait_for", "*") for alias in names)
    return False


def test_a_wait_has_a_limit_that_passes_a_cancel_on() -> None:
    assert lines_where([*MODULES, *OTHERS], names_it) == [], "use `async with asyncio.timeout(…)`"


async def ends(work: Callable[[], Awaitable[None]], wake: Callable[[], None], turns: int) -> None:
    """Cancel ``work`` so many turns of the loop after what it waits for has come about; it must end."""
    task = asyncio.ensure_future(work())
    await asyncio.sleep(0.01)
    wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()


@pytest.mark.parametrize("turns", range(5))
async def test_who_vouches_ends_when_it_is_cancelled_just_as_it_is_woken(turns: int) -> None:
    async def vms() -> tuple[set[str], set[str]]:
        return set(), set()

    async def say(word: EnrolVouch) -> None:
        return None

    vouching = Vouching(vms, say)
    await ends(vouching.run, vouching.look, turns)


@pytest.mark.parametrize("turns", range(5))
async def test_who_sees_vms_off_ends_when_it_is_cancelled_just_as_it_is_woken(tmp_path: Path, turns: int) -> None:
    registry = VmRegistry(tmp_path / "vms.json")
    registry.put(VmRecord(vm="vm-a", name="a", cpus=1, memory_mib=64, disk_mib=1024))
    registry.remove("vm-a")

    async def revoke(vm: str) -> None:
        raise OSError("the key manager is away")

    leaving = Leaving(registry, revoke)
    await ends(leaving.run, leaving.look, turns)
