"""Random verbs on four VMs in QEMU, snapshots included: commands come twice, the host's agent is killed in the midst.

What is told of a VM is held against QEMU itself, asked at its own monitor while no agent holds that. The seed is
printed; ``VOLCLOUD_SEED`` repeats a run, ``VOLCLOUD_STEPS`` makes it shorter.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ConnectError, QMPClient

from broker.errors import BrokerError
from broker.road.streams import short_path
from broker.routes import down
from host_agent.hypervisors.qemu.machine import STATES
from schemas.envelope import Message
from schemas.ledger import RegistryRow
from schemas.vms import (
    VmCommand,
    VmDeleteSnapshot,
    VmDiscard,
    VmPause,
    VmPoweroff,
    VmReset,
    VmRestoreSnapshot,
    VmResume,
    VmSavestate,
    VmStart,
    VmState,
    VmTakeSnapshot,
)
from tests.broker.polling import until
from tests.system.running import System, running
from volcloud import AsyncClient

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(7200)]

STEPS = int(os.environ.get("VOLCLOUD_STEPS", "200"))
VMS = 4
NAMES = ("s1", "s2")
#: Booting is what takes long, and most verbs need a VM that runs.
VERBS: dict[type[VmCommand], int] = {
    VmStart: 6, VmPause: 4, VmResume: 5, VmSavestate: 3, VmDiscard: 1, VmReset: 1, VmPoweroff: 2,
    VmTakeSnapshot: 6, VmRestoreSnapshot: 6, VmDeleteSnapshot: 2,
}  # fmt: skip
#: Of so many steps one kills the agent in the midst of its verb, and one has QEMU itself asked after it.
KILL_EACH, AUDIT_EACH = 6, 4
#: How long a verb may take, and what follows from it, on a machine that others use too, seconds.
VERB_S, PATIENCE_S = 240.0, 240.0
#: States that pass by themselves.
PASSING = {VmState.STARTING, VmState.SAVING, VmState.RESTORING, VmState.STOPPING, VmState.PAUSING, VmState.UNKNOWN}
AT_REST = {VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED}


class Trial:
    """The system under trial and what its dice say."""

    def __init__(self, system: System, cloud: AsyncClient, seed: str) -> None:
        self.system, self.cloud, self.dice = system, cloud, random.Random(seed)
        self.vms = system.layout.host / "hypervisor" / "vms"
        self.ends: Counter[str] = Counter()

    async def rows(self) -> list[RegistryRow]:
        return await self.cloud.vms.list()

    async def step(self, number: int) -> None:
        row = self.dice.choice(await self.rows())
        (kind,) = self.dice.choices(list(VERBS), list(VERBS.values()))
        more: dict[str, Any] = {"snapshot": self.dice.choice(NAMES)} if "snapshot" in kind.__struct_fields__ else {}
        order = kind(vm=row.status.vm, **more)
        kills, audits = self.dice.randrange(KILL_EACH) == 0, self.dice.randrange(AUDIT_EACH) == 0
        wait_s, again = self.dice.random(), self.dice.randrange(3)
        end = await self._give(row.host, order, again, wait_s if kills else None)
        self.ends[f"{kind.__struct_config__.tag}: {end}"] += 1
        told = await self.settled()
        asked = " ".join([str(kind.__struct_config__.tag), row.status.name, *more.values()])
        print(f"{number}: {asked}: {end}{', agent killed' * kills}; {' '.join(told.values())}", flush=True)
        if audits:
            await self.audit(number)

    async def _give(self, host: str, order: VmCommand, again: int, kill_after_s: float | None) -> str:
        """Send a command, as often again as the broker may, with its agent killed in the midst of it or not; give how
        it ended."""
        caller = self.cloud._session.caller
        call = asyncio.create_task(caller.call(host, order, Message, timeout_s=VERB_S))
        for _ in range(again):
            await caller.cast(down(host), order)
        if kill_after_s is not None:
            await asyncio.wait([call], timeout=kill_after_s)
            await self.kill_agent()
        try:
            await call
        except BrokerError as error:
            return str(getattr(error, "code", type(error).__name__))
        return "ok"

    async def kill_agent(self) -> None:
        pid = self.system.pid("host_agent")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: self.system.pid("host_agent") not in (0, pid), PATIENCE_S)

    async def settled(self) -> dict[str, VmState]:
        """Wait until nothing is at work on any VM and the centre has heard how all are; give that, by id."""
        told: dict[str, VmState] = {}
        async with asyncio.timeout(PATIENCE_S):
            while not told:
                seen = [row.status for row in await self._fresh()]
                if all(one.act is None and one.state not in PASSING for one in seen):
                    told = {one.vm: one.state for one in seen}
        return told

    async def _fresh(self) -> list[RegistryRow]:
        """Give what the host has said a second and more from now: it has heard of all that was before."""
        since_ms = max(row.seen_ms for row in await self.rows()) + 1000
        rows: list[RegistryRow] = []
        while not rows or rows[0].seen_ms <= since_ms:
            await asyncio.sleep(0.2)
            rows = await self.rows()
        return rows

    async def audit(self, number: int) -> None:
        """Hold what is told against what each QEMU says of itself, and each VM's directory."""
        told = await self.settled()
        with self.without_agent():
            own = {vm: await own_state(self.vms / vm) for vm in told}
        told = {vm: (None if state in AT_REST else state) for vm, state in told.items()}
        assert own == told, f"after step {number}: QEMU's own, and told"
        await until(lambda: self.system.pid("host_agent") != 0, PATIENCE_S)

    @contextmanager
    def without_agent(self) -> Iterator[None]:
        """Have the agent dead and nobody to start another."""
        supervisor = self.system.supervisor
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        try:
            os.kill(self.system.pid("host_agent"), signal.SIGKILL)
            yield
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)


async def own_state(home: Path) -> VmState | None:
    """Ask the QEMU of a VM, as nobody's agent; None where there is none."""
    qmp = QMPClient("audit")
    try:
        async with asyncio.timeout(PATIENCE_S):
            with short_path(home / "qmp.sock") as path:
                await qmp.connect(path)
            status = await qmp.execute("query-status")
    except ConnectError:
        return None  # nobody listens at a socket that a process has left
    await qmp.disconnect()
    assert isinstance(status, dict)
    return STATES[status["status"]]


async def test_what_is_told_is_what_qemu_says_whatever_was_asked_and_whoever_was_killed() -> None:
    seed = os.environ.get("VOLCLOUD_SEED") or secrets.token_hex(8)
    print(f"VOLCLOUD_SEED={seed}")
    with running("--hypervisor", "qemu", "--vms", str(VMS), "--memory", "256", patience_s=900) as system:
        async with await AsyncClient.connect(system.directory) as cloud:
            one = Trial(system, cloud, seed)
            for row in await one.rows():
                await cloud.vms.take_snapshot(row.status.vm, NAMES[0])
            for number in range(STEPS):
                await one.step(number)
            await one.audit(STEPS)
            for row in await one.rows():
                await cloud.vms.poweroff(row.status.vm)
                left = [path.name for path in (one.vms / row.status.vm).iterdir() if "void" in path.name]
                assert left == [], "what was cut short is removed"
                await cloud.vms.delete(row.status.vm)
            assert list(one.vms.iterdir()) == []
        print(*sorted(one.ends.items()), sep="\n")
        assert one.ends["vm.restore_snapshot: ok"] > 0
        assert one.ends["vm.take_snapshot: ok"] > 0
