"""When a system is ready: every adapter answers, the host is known, its VMs run and their agents have spoken."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from broker.address import read_address
from broker.node import LOOPBACK
from console.async_client import AsyncClient
from console.centre.layout import Layout
from console.centre.plan import HOST_AGENT, KEY_MANAGER, Daemon, Names, Plan, principals
from console.centre.stopping import Say
from console.errors import CentreFailed, Unreachable

#: How long credentials may take, seconds.
CREDENTIALS_S = 40.0
#: How long everything else may take, seconds; a guest under emulation boots in 4 to 30.
READY_S = 240.0
_POLL_S = 0.1


async def wait_credentials(plan: Plan, names: Names, port: int) -> None:
    """Wait until the key manager has written every credential for the broker on ``port``. Raises CentreFailed."""
    deadline = time.monotonic() + CREDENTIALS_S
    while missing := _missing_credentials(plan, names, port):
        _check_time(deadline, missing, plan.layout, KEY_MANAGER)
        await asyncio.sleep(_POLL_S)


async def wait_ready(plan: Plan, names: Names, processes: list[Daemon], say: Say) -> None:
    """Wait until the system is ready, and say how far it is. Raises CentreFailed naming what is missing."""
    deadline = time.monotonic() + READY_S
    for process in [one for one in processes if one.metrics_port]:
        while not await _answers(process.metrics_port):
            _check_time(deadline, f"{process.name} does not answer", plan.layout, process.name)
            await asyncio.sleep(_POLL_S)
    say("the adapters answer")
    await _wait_machines(plan, names, deadline, say)


async def _wait_machines(plan: Plan, names: Names, deadline: float, say: Say) -> None:
    began_ms = int(time.time() * 1000) - 60_000
    said = ""
    async with await AsyncClient.connect(plan.layout.root) as client:
        while missing := await _missing_machines(client, plan, names, began_ms):
            if missing != said:
                say(missing)
                said = missing
            _check_time(deadline, missing, plan.layout, HOST_AGENT)
            await asyncio.sleep(_POLL_S)


async def _missing_machines(client: AsyncClient, plan: Plan, names: Names, began_ms: int) -> str:
    """Say what is still missing; empty when nothing is."""
    try:
        hosts = [row for row in await client.hosts() if row.host == names.host and row.present]
        vms = [row for row in await client.vms() if row.host == names.host and row.seen_ms >= began_ms]
    except Unreachable as error:
        return f"waiting for the centre: {error.message}"
    if not hosts:
        return "waiting for the host agent"
    wanted = [row for row in vms if row.status.name in {f"worker-{n}" for n in range(1, plan.vms + 1)}]
    running = [row for row in wanted if row.status.state == "running"]
    ready = [row for row in running if row.agent_ready]
    if len(ready) == plan.vms:
        return ""
    troubles = [f"{row.status.name}: {row.status.reason}" for row in wanted if row.status.reason]
    told = f" ({'; '.join(troubles)})" if troubles else ""
    return f"VMs: {len(running)} of {plan.vms} running, {len(ready)} ready{told}"


def _missing_credentials(plan: Plan, names: Names, port: int) -> str:
    missing = [name for name in principals(plan, names) if _port_in(plan.layout.credential(name)) != port]
    return f"no credential for {', '.join(missing)}" if missing else ""


def _port_in(credential: Path) -> int:
    """Say where a credential points; 0 for none. One of an earlier run may point where the broker was then."""
    try:
        return read_address(credential).port
    except FileNotFoundError:
        return 0


def _check_time(deadline: float, missing: str, layout: Layout, process: str) -> None:
    if time.monotonic() > deadline:
        raise CentreFailed(f"the system is not ready: {missing}", f"see {layout.log(process)}")


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
