"""Virtual machines: those that the centre knows, and the verbs on them, each of which its host takes.

A method that names one ``vm`` takes its name or its id. It raises NoSuchVm when there is none, or several. A
verb gives the VM's status after it, None once the VM is gone.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from broker.errors import CallTimeout
from schemas.envelope import Message
from schemas.ledger import HostRow, Registry, RegistryList, RegistryRow
from schemas.vms import VmCommand, VmCreate, Vms, VmStatus, VmStop, vm_verbs
from volcloud.client.blocking import blocking
from volcloud.client.hosts import AsyncHosts
from volcloud.client.looks import AsyncVmLooks
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown
from volcloud.client.snapshots import AsyncVmSnapshots, check_name
from volcloud.client.vm_history import AsyncVmHistory, BlockingVmHistory
from volcloud.errors import BadInput, CommandFailed, NoSuchVm
from volcloud.rendering.words import span

#: How long a host may take for a verb, seconds; a guest under emulation may need a minute to shut down.
VERB_S = 180.0
#: How long what was said of a VM may be believed by who asks over and over, seconds, and of how many it is kept.
RECENT_S, MOST_RECENT = 1.0, 1000
#: Within what time the centre hears of a VM that its host has just made, and how often it is asked, seconds.
HEARD_S, _HEAR_AGAIN_S = 1.0, 0.1
#: Names that an error lists of those that there are.
MOST_NAMED = 10
#: How long a guest may take to shut down, unless it is said, and at most, seconds.
STOP_S, STOP_MOST_S = 60.0, 3600.0
#: States in which a VM's agent can answer, or may at the next moment: the centre hears of a state after the host.
_LIVE = frozenset({"running", "starting", "stopping", "saving", "restoring", "unknown"})
#: Which verb makes a VM of that state live.
_WAY_BACK = {"paused": "resume", "set_aside": "adopt"}
#: State of a VM that its host knows and of which it finds nothing; the reason says what to do.
_MISSING = "missing"
#: State of a VM of which neither host nor guest is heard.
_LOST = "lost"
_VM_NAME = re.compile("[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")

M = TypeVar("M", bound=Callable[..., Any])


def _verb(declared: M) -> M:
    """Let a method give the verb that it is named after; it says no more than how it is called and what holds then."""
    verb = vm_verbs()[declared.__name__]

    @wraps(declared)
    async def give(self: AsyncVms, vm: str) -> VmStatus | None:
        return await self.command(await self.get(vm), verb)

    return cast(M, give)


class AsyncVms(AsyncVmSnapshots, AsyncVmLooks, AsyncVmHistory):
    """See the module."""

    def __init__(self, session: ClientSession, hosts: AsyncHosts) -> None:
        super().__init__(session)
        self._hosts = hosts
        #: What was asked for by name or id, and until when it is recent.
        self._recent: dict[str, tuple[RegistryRow, float]] = {}

    async def list(self, pattern: str = "*") -> Table[RegistryRow]:
        """List the VMs whose name or id fits a shell pattern, by name."""
        rows: Table[RegistryRow] = Table()
        page = await self._session.centre.ask(RegistryList(pattern=pattern), Registry)
        rows.extend(map(shown, page.vms))
        while page.next:
            page = await self._session.centre.ask(RegistryList(pattern=pattern, after=page.next), Registry)
            rows.extend(map(shown, page.vms))
        return rows

    async def find(self, pattern: str) -> Table[RegistryRow]:
        """As ``list``, at least one; one that was made a moment ago is waited for until the centre has heard of it.
        Raises NoSuchVm naming those that there are."""
        deadline_s = time.monotonic() + HEARD_S
        rows = await self.list(pattern)
        while not rows and time.monotonic() < deadline_s:
            await asyncio.sleep(_HEAR_AGAIN_S)
            rows = await self.list(pattern)
        if rows:
            return rows
        page = await self._session.centre.ask(RegistryList(limit=MOST_NAMED), Registry)
        known = [*dict.fromkeys(row.status.name for row in page.vms), *(["…"] if page.next else [])]
        raise NoSuchVm(
            f"no VM is called {pattern!r}: there {_are(known)}", "`volcloud vm list` shows them; a pattern needs quotes"
        )

    async def get(self, vm: str) -> RegistryRow:
        """Give the one VM of that name or id. Raises NoSuchVm when there is none, or several."""
        rows = await self.find(vm)
        if len(rows) > 1:
            found = ", ".join(f"{row.status.vm} ({row.status.name} on {row.host})" for row in rows)
            raise NoSuchVm(f"{vm!r} fits {len(rows)} VMs: {found}", "give the id of one")
        return rows[0]

    async def recent(self, vm: str) -> RegistryRow:
        """As ``get``, or what that gave within the last second, where no verb was given since: for one command after
        another in a VM, each of which tells soon enough that it is not there any more."""
        row, until_s = self._recent.get(vm, (None, 0.0))
        if row is None or time.monotonic() > until_s:
            row = await self.get(vm)
            if len(self._recent) >= MOST_RECENT:
                self._recent.clear()
            self._recent[vm] = row, time.monotonic() + RECENT_S
        return row

    async def create(
        self,
        name: str,
        *,
        host: str = "",
        cpus: int = 1,
        memory_mib: int = 512,
        disk_mib: int = 4096,
        image: str = "",
        autostart: bool = False,
    ) -> VmStatus:
        """Make a VM on ``host``, which may be left out while there is only one. It is not started.

        Raises BadInput, and CommandFailed when there is no such host."""
        if not _VM_NAME.fullmatch(name):
            allowed = "must be a to z, 0 to 9 and '-' inside, at most 42 characters"
            raise BadInput(f"VM name = {name!r}: {allowed}", "choose another name")
        order = VmCreate(
            name=name, cpus=cpus, memory_mib=memory_mib, disk_mib=disk_mib, image=image, autostart=autostart
        )
        row = await self._host_named(host)
        return shown((await self._session.caller.call(row.host, order, Vms, timeout_s=VERB_S)).vms[0])

    @_verb
    async def start(self, vm: str) -> VmStatus | None:
        """Boot a VM, or let it go on from its saved state."""

    async def stop(self, vm: str, *, timeout_s: float = STOP_S) -> VmStatus | None:
        """Ask the guest to shut down, and wait for so long; one that has not by then runs on. Raises BadInput."""
        return await self.command(await self.get(vm), VmStop, timeout_s=timeout_s)

    @_verb
    async def pause(self, vm: str) -> VmStatus | None:
        """Freeze a VM, its memory kept; its jobs wait."""

    @_verb
    async def resume(self, vm: str) -> VmStatus | None:
        """Let a paused VM go on."""

    @_verb
    async def reset(self, vm: str) -> VmStatus | None:
        """Reboot a VM without asking the guest."""

    @_verb
    async def poweroff(self, vm: str) -> VmStatus | None:
        """End a VM at once; its jobs run again elsewhere."""

    @_verb
    async def savestate(self, vm: str) -> VmStatus | None:
        """Write a VM's memory to disk and end it; ``start`` brings it back."""

    @_verb
    async def discard(self, vm: str) -> VmStatus | None:
        """Throw a VM's saved state away, so that it boots afresh; or all of a VM that was set aside."""

    @_verb
    async def adopt(self, vm: str) -> VmStatus | None:
        """Take a VM back that was set aside: its host has it, and the host's agent did not know it."""

    @_verb
    async def delete(self, vm: str) -> VmStatus | None:
        """Remove a VM and all that belongs to it."""

    async def command(self, row: RegistryRow, verb: type[VmCommand], /, **more: Any) -> VmStatus | None:
        """Give one verb to the host of one VM of the registry, with ``more`` of the command's fields; give the status
        after it, None once it is gone. Raises BadInput."""
        caller, guests_s = self._session.caller, more.get("timeout_s", 0.0)
        if "timeout_s" in more and not 0 < guests_s <= STOP_MOST_S:
            raise BadInput(f"timeout = {guests_s:g} s: must be above 0 and at most {STOP_MOST_S:.0f} s", "give another")
        if "snapshot" in more:
            check_name(more["snapshot"])
        with _silence_dated(lambda: (caller.now_ms - row.seen_ms) / 1000):
            order = verb(vm=row.status.vm, **more)
            try:
                answer = await caller.call(row.host, order, Message, timeout_s=VERB_S + guests_s)
            finally:
                self._recent.clear()
        return shown(answer.vms[0]) if isinstance(answer, Vms) and answer.vms else None

    async def _host_named(self, name: str) -> HostRow:
        hosts = await self._hosts.list()
        chosen = [row for row in hosts if name in (row.host, row.facts.hostname) or (not name and row.present)]
        if len(chosen) == 1:
            return chosen[0]
        known = ", ".join(row.host for row in hosts) or "none"
        what = f"no host is called {name!r}" if name else f"{len(chosen)} hosts are present"
        raise CommandFailed(f"{what}; known: {known}", "name one with --host; `volcloud host list` shows them")


class BlockingVms(BlockingVmHistory[AsyncVms]):
    """See the module."""

    list = blocking(AsyncVms.list)
    find = blocking(AsyncVms.find)
    get = blocking(AsyncVms.get)
    recent = blocking(AsyncVms.recent)
    create = blocking(AsyncVms.create)
    start = blocking(AsyncVms.start)
    stop = blocking(AsyncVms.stop)
    pause = blocking(AsyncVms.pause)
    resume = blocking(AsyncVms.resume)
    reset = blocking(AsyncVms.reset)
    poweroff = blocking(AsyncVms.poweroff)
    savestate = blocking(AsyncVms.savestate)
    discard = blocking(AsyncVms.discard)
    adopt = blocking(AsyncVms.adopt)
    delete = blocking(AsyncVms.delete)
    snapshots = blocking(AsyncVms.snapshots)
    take_snapshot = blocking(AsyncVms.take_snapshot)
    restore_snapshot = blocking(AsyncVms.restore_snapshot)
    delete_snapshot = blocking(AsyncVms.delete_snapshot)
    command = blocking(AsyncVms.command)
    stats = blocking(AsyncVms.stats)
    stats_of = blocking(AsyncVms.stats_of)
    screenshot = blocking(AsyncVms.screenshot)
    log = blocking(AsyncVms.log)
    log_after = blocking(AsyncVms.log_after)


def check_live(row: RegistryRow) -> RegistryRow:
    """Give a VM back whose agent can answer. Raises CommandFailed, with the verb that makes it live, for any other."""
    if row.status.state in _LIVE:
        return row
    text = f"VM {row.status.name} is {row.status.state}: its agent cannot answer"
    if row.status.state == _MISSING:
        raise CommandFailed(text, row.status.reason)
    if row.status.state == _LOST:
        raise CommandFailed(
            f"{text}, and its host {row.host} is {row.host_presence}", f"`volcloud host show {row.host}`"
        )
    verb = _WAY_BACK.get(row.status.state, "start")
    # By its id: other VMs may have that name.
    raise CommandFailed(text, f"`volcloud vm {verb} {row.status.vm}`, and wait until its agent is ready")


@contextmanager
def _silence_dated(seen_s: Callable[[], float]) -> Iterator[None]:
    """Add to an agent's silence since when the centre has not heard of it either."""
    try:
        yield
    except CallTimeout as error:
        since = f"; the centre heard of it last {span(seen_s())} ago"
        raise CallTimeout(f"{error}{since}", accepted=error.accepted) from error


def _are(names: Sequence[str]) -> str:
    return f"are {', '.join(names)}" if names else "is none"
