"""When a system is ready: every adapter answers, the host is known, its VMs run and their agents have spoken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.address import read_address
from broker.node import LOOPBACK
from host_agent.vm import Wish
from schemas.ledger import RegistryRow
from schemas.vms import UNDECIDED
from volcloud.centre.existing_vms import read_registry
from volcloud.centre.layout import Layout
from volcloud.centre.plan import HOST_AGENT, KEY_MANAGER, Daemon, Names, Plan, principal_of, principals
from volcloud.centre.stopping import Say
from volcloud.client import AsyncClient
from volcloud.errors import CentreFailed, Unreachable

#: How long credentials may take, seconds.
CREDENTIALS_S = 40.0
#: How long everything else may take, seconds; a guest under emulation boots in 4 to 30.
READY_S = 240.0
_POLL_S = 0.1
#: How long an adapter may take to give its metrics, seconds, and what is kept of them, bytes: they have a tenth of it.
ANSWER_S, _MOST_BYTES = 5.0, 1 << 20


class Beginning(msgspec.Struct, frozen=True):
    """What was before a start: whatever an earlier run has said counts for nothing after it."""

    #: When the start began, ms since 1970, by this machine's clock, which is the adapters'.
    at_ms: int
    #: The boot generation of each VM of this host. A start raises it.
    generations: dict[str, int]

    @classmethod
    def of(cls, layout: Layout) -> Beginning:
        """Take note, before anything of the system runs."""
        known = read_registry(layout.vms)
        return cls(int(time.time() * 1000), {record.vm: record.generation for record in known})

    def is_since(self, row: RegistryRow) -> bool:
        """Whether the host has said it after this: of a boot that it had not begun before."""
        return row.status.generation > self.generations.get(row.status.vm, 0)

    def is_undecided(self, row: RegistryRow) -> bool:
        """Whether its host has said after this that it waits for a person's word about it."""
        return row.status.state in UNDECIDED and row.seen_ms >= self.at_ms


async def wait_credentials(plan: Plan, names: Names, port: Callable[[], int]) -> None:
    """Wait until the key manager has written every credential for the broker on ``port``. Raises CentreFailed."""
    deadline = time.monotonic() + CREDENTIALS_S
    while missing := _missing_credentials(plan, names, port()):
        _check_time(deadline, missing, plan.layout, KEY_MANAGER)
        await asyncio.sleep(_POLL_S)


async def wait_ready(
    plan: Plan, names: Callable[[], Names], processes: list[Daemon], beginning: Beginning, say: Say
) -> None:
    """Wait until the system is ready, and say how far it is. Raises CentreFailed naming what is missing.

    ``names`` gives them as they are by then: an adapter that finds its port taken gets another.
    """
    deadline = time.monotonic() + READY_S
    for process in [one for one in processes if one.has_metrics]:
        while not await _answers(process.name, names):
            _check_time(deadline, f"{process.name} does not answer", plan.layout, process.name)
            await asyncio.sleep(_POLL_S)
    say("the adapters answer")
    if resting := sorted(resting_vms(plan)):
        say(f"{', '.join(resting)}: not to run, as somebody wished; `volcloud vm start NAME` starts it")
    await _wait_machines(plan, names(), deadline, beginning, say)


def resting_vms(plan: Plan) -> set[str]:
    """Name the VMs of this host that somebody wished not to run: a start does not wait for them."""
    return {record.name for record in read_registry(plan.layout.vms) if record.wish is not Wish.RUNNING}


async def _wait_machines(plan: Plan, names: Names, deadline: float, beginning: Beginning, say: Say) -> None:
    said = ""
    async with await AsyncClient.connect(plan.layout.root) as client:
        while missing := await _missing_machines(client, plan, names, beginning):
            if missing != said:
                say(missing)
                said = missing
            _check_time(deadline, missing, plan.layout, HOST_AGENT)
            await asyncio.sleep(_POLL_S)
        for row in await client.vms.list():
            if row.host == names.host and beginning.is_undecided(row):
                say(f"{row.status.name} is {row.status.state}: {row.status.reason}")


async def _missing_machines(client: AsyncClient, plan: Plan, names: Names, beginning: Beginning) -> str:
    """Say what is still missing; empty when nothing is."""
    try:
        hosts = [row for row in await client.hosts.list() if row.host == names.host and row.seen_ms >= beginning.at_ms]
        rows = [row for row in await client.vms.list() if row.host == names.host]
    except Unreachable as error:
        return f"waiting for the centre: {error.message}"
    if not any(row.present for row in hosts):
        return "waiting for the host agent"
    # Only a person can decide about these, and for that the system must be up.
    undecided = {row.status.name for row in rows if beginning.is_undecided(row)}
    names_wanted = {f"worker-{n}" for n in range(1, plan.vms + 1)} - resting_vms(plan) - undecided
    wanted = [row for row in rows if beginning.is_since(row) and row.status.name in names_wanted]
    running = [row for row in wanted if row.status.state == "running"]
    ready = [row for row in running if row.agent_ready]
    if len(ready) == len(names_wanted):
        return ""
    troubles = [f"{row.status.name}: {row.status.reason}" for row in wanted if row.status.reason]
    told = f" ({'; '.join(troubles)})" if troubles else ""
    return f"VMs: {len(running)} of {len(names_wanted)} running, {len(ready)} ready{told}"


def _missing_credentials(plan: Plan, names: Names, port: int) -> str:
    missing = [name for name in principals(plan, names) if _port_in(plan.layout.credential(name)) != port]
    return f"no credential for {', '.join(missing)}" if missing else ""


def _port_in(credential: Path) -> int:
    """Say where a credential points; 0 for none. One of an earlier run may point where the broker was then."""
    try:
        return read_address(credential).endpoints[0].port
    except (FileNotFoundError, ValueError):
        return 0


def _check_time(deadline: float, missing: str, layout: Layout, process: str) -> None:
    if time.monotonic() > deadline:
        raise CentreFailed(f"the system is not ready: {missing}", f"see {layout.log(process)}")


async def _answers(process: str, names: Callable[[], Names]) -> bool:
    """Say whether the adapter itself answers: on its port there may be a stranger."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, names().metrics[process])
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            said = await reader.read(_MOST_BYTES)
            while block := await reader.read(_MOST_BYTES):
                said = (said + block)[-_MOST_BYTES:]
            writer.close()
    except (OSError, TimeoutError):
        return False
    return f'vc_build_info{{adapter="{principal_of(process, names())}"'.encode() in said
