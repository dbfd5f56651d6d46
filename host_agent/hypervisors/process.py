"""The guest agent as processes of the host: a VM in name only, with no isolation at all.

For development, and for sites that bring their own sandbox. Pause and resume stop and continue every process of the
"VM", payloads included; there is no saved state. The processes outlive the agent and are found again by the pid, start
time and mark that ``detached`` and ``directory`` keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import durable
from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import read_stat
from host_agent.errors import HypervisorError, StopTimedOut, Unsupported, naming_disk
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.detached import (
    Watch,
    find_tree,
    finished,
    send_signal,
    spawn,
)
from host_agent.hypervisors.directory import VmDirectories
from host_agent.hypervisors.kept_log import trim
from host_agent.vm import Verb, VmState
from schemas.endpoints import Endpoint

log = logging.getLogger(__name__)

#: Payloads that fork while they are being signalled are caught by another round; after this time we give up.
_SIGNAL_DEADLINE_S = 10.0
#: Between two looks at /proc for an effect that nothing announces.
_LOOK_INTERVAL_S = 0.005

_SEED = "seed"
_LOG = "guest.log"
_STATE = "state"
_ROAD = "road.sock"


class ProcessHypervisor:
    """Runs each VM's guest agent as a process in a session of its own."""

    name = "process"
    capabilities = Capabilities(
        verbs=frozenset(Verb) - {Verb.SAVESTATE, Verb.DISCARD},
        isolates=False,
        needs_image=False,
        notes="the guest agent runs as this user on this host: no isolation, no saved state",
    )

    def __init__(self, directory: Path, command: Sequence[str] | None = None, *, niceness: int = 0) -> None:
        """``command`` is given ``--seed``, ``--state-dir`` and ``--whereabouts``; by default it is our guest agent."""
        self._niceness = niceness
        self._directories = VmDirectories(directory, self.name)
        self._command = [*command] if command else [sys.executable, "-m", "guest_agent.main"]
        self._live: dict[str, Watch] = {}
        #: VMs whose end was asked for; the end of any other is news.
        self._ending: set[str] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._listener: StateListener | None = None

    def road_for_guest(self) -> str:
        """See the contract."""
        return f"socket:{_ROAD}"

    def road(self, vm: str) -> Path | None:
        """See the contract."""
        return self._directories.path(vm) / _STATE / _ROAD

    def endpoints_for_guest(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """See the contract."""
        return endpoints

    async def open(self, listener: StateListener) -> None:
        """Find the processes of an earlier agent by pid and start time, and end strays of half-made starts."""
        if self._listener is None:
            log.warning("driver_does_not_isolate driver=process: jobs run as this user, with its files and network")
        self._listener = listener
        self._directories.sweep()
        for vm in self._directories.list():
            await self.attach(vm)

    async def attach(self, vm: str) -> None:
        """Find its process; a VM whose files are damaged keeps no other from being found, and says why when asked."""
        try:
            with naming_disk(f"cannot adopt {vm}"):
                await self._adopt(vm)
        except HypervisorError as error:
            log.error("vm_not_adopted vm=%s error=%s", vm, error)

    async def close(self) -> None:
        """Stop watching; the processes go on. Clean-ups that have begun are finished."""
        self._listener = None
        for watch in self._live.values():
            watch.close()
        self._live.clear()
        await asyncio.gather(*self._burials)

    async def list(self) -> list[str]:
        """Name the VMs in order of creation."""
        return self._directories.list()

    async def state(self, vm: str) -> VmState:
        """Read the state off the kernel's view of the process."""
        if not self._directories.exists(vm):
            return VmState.ABSENT
        process = self._directories.process(vm)
        if process is None:
            return VmState.POWEREDOFF
        stat = process.stat()
        if stat is None:
            return VmState.ABORTED
        return VmState.PAUSED if stat.run_state in "Tt" else VmState.RUNNING

    async def facts(self, vm: str) -> VmFacts:
        """Sum up all processes of a VM."""
        process = self._directories.process(vm)
        if process is None or process.stat() is None:
            return VmFacts(reason=self._directories.flaw(vm))
        tree = await asyncio.to_thread(find_tree, self._directories.path(vm), process)
        trim(self._directories.path(vm) / _LOG)
        stats = [stat for pid in tree if (stat := read_stat(pid))]
        return VmFacts(
            pid=process.pid,
            accelerator="none",
            cpu_seconds=sum(stat.cpu_seconds for stat in stats),
            resident_bytes=sum(stat.resident_bytes for stat in stats),
            reason=self._directories.flaw(vm),
        )

    def where(self, vm: str) -> str:
        """See the contract: its directory."""
        return str(self._directories.path(vm))

    def spec(self, vm: str) -> VmSpec:
        """Read it from the marker."""
        return self._directories.spec(vm)

    def seed(self, vm: str) -> bytes | None:
        """Read it from its file."""
        with naming_disk(f"seed of {vm}"):
            try:
                return (self._directories.path(vm) / _SEED).read_bytes()
            except FileNotFoundError:
                return None

    async def create(self, spec: VmSpec) -> None:
        """Make the VM's directory."""
        if self._directories.exists(spec.id):
            raise HypervisorError(f"there is already a VM {spec.id}")
        with naming_disk(f"cannot make {spec.id}"), self._directories.making(spec) as home:
            (home / _STATE).mkdir(mode=0o700)

    async def start(self, vm: str, seed: bytes) -> None:
        """Start the guest agent with ``seed`` in a file that only this user reads."""
        spec, home = self._directories.spec(vm), self._directories.path(vm)
        with naming_disk(f"cannot start {vm}"):
            durable.replace(home / _SEED, seed)
        places = ["--seed", str(home / _SEED), "--state-dir", str(home / _STATE), "--whereabouts", spec.broker]
        command = [*self._command, *places]
        before = self._directories.process(vm)
        try:
            with naming_disk(f"cannot start {command[0]}"):
                start = functools.partial(spawn, niceness=self._niceness)
                process = await finished(asyncio.to_thread(start, home, command, home / _STATE, home / _LOG))
                self._directories.remember_process(vm, process)
                self._watch(vm)
        except BaseException:
            await self._undo_start(vm, before)
            raise

    async def _undo_start(self, vm: str, before: ProcessIdentity | None) -> None:
        """Leave no process of a start that failed or was cut short, and the state that was before."""
        self._ending.add(vm)
        try:
            await self._kill(vm)
        finally:
            self._ending.discard(vm)
        if before is None:
            self._directories.forget_process(vm)
        else:
            with contextlib.suppress(OSError):
                self._directories.remember_process(vm, before)

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Send SIGTERM to the guest agent, and end what it leaves behind."""
        watch = self._live.get(vm)
        if watch is not None:
            await self._end_politely(vm, watch, timeout_s)
        await self.poweroff(vm)

    async def pause(self, vm: str) -> None:
        """Stop every process of the VM, in whatever group it is."""
        await self._signal_until(vm, signal.SIGSTOP, "Tt")

    async def resume(self, vm: str) -> None:
        """Continue every process of the VM."""
        await self._signal_until(vm, signal.SIGCONT, "RSDI")

    async def reset(self, vm: str, seed: bytes) -> None:
        """Kill and start again; a VM of which it cannot be read how is not killed."""
        self._directories.spec(vm)
        await self.poweroff(vm)
        await self.start(vm, seed)

    async def poweroff(self, vm: str) -> None:
        """Kill every process of the VM, also of one whose directory is missing: its mark finds them."""
        self._ending.add(vm)
        try:
            await self._kill(vm)
            if self._directories.exists(vm):
                self._directories.forget_process(vm)
        finally:
            self._ending.discard(vm)

    async def savestate(self, vm: str) -> None:
        """Refuse: the memory of a process cannot be kept."""
        raise Unsupported(f"driver {self.name} cannot save {vm}: {self.capabilities.notes}")

    async def discard(self, vm: str) -> None:
        """Refuse: there is no saved state."""
        raise Unsupported(f"driver {self.name} cannot discard for {vm}: {self.capabilities.notes}")

    async def delete(self, vm: str) -> None:
        """Remove the VM's directory, and any process that escaped so far."""
        if await self.state(vm) in (VmState.RUNNING, VmState.PAUSED):
            raise HypervisorError(f"VM {vm} runs; power it off first")
        await self.poweroff(vm)
        await asyncio.to_thread(self._directories.remove, vm)

    async def offer_seed(self, vm: str, seed: bytes) -> None:
        """Replace the seed file; the guest agent watches it."""
        self._directories.spec(vm)
        with naming_disk(f"cannot seed {vm}"):
            durable.replace(self._directories.path(vm) / _SEED, seed)

    async def _adopt(self, vm: str) -> None:
        if vm in self._live:
            return
        try:
            self._watch(vm)
        except ProcessLookupError:
            await self._kill(vm)

    def _watch(self, vm: str) -> None:
        process = self._directories.process(vm)
        if process is None:
            raise ProcessLookupError(f"VM {vm} has no process")
        self._live[vm] = Watch(process, lambda: self._has_ended(vm))

    def _has_ended(self, vm: str) -> None:
        self._live.pop(vm, None)
        if vm not in self._ending:
            burial = asyncio.ensure_future(self._bury(vm))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)

    async def _bury(self, vm: str) -> None:
        """End what a dead guest agent left behind, as a crashing machine ends all that runs on it."""
        try:
            await self._kill(vm)
        except HypervisorError as error:
            log.error("leftovers_survive vm=%s error=%s", vm, error)
        if self._listener is not None:
            self._listener(vm, VmState.ABORTED)

    async def _end_politely(self, vm: str, watch: Watch, timeout_s: float) -> None:
        self._ending.add(vm)
        watch.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await watch.wait()
        except TimeoutError as error:
            raise StopTimedOut(f"the guest agent of {vm} did not end within {timeout_s} s; power it off") from error
        finally:
            self._ending.discard(vm)

    async def _kill(self, vm: str) -> None:
        """Kill rounds of processes until none is found, and wait until our watch has seen the end."""
        await self._signal_until(vm, signal.SIGKILL, "")
        if vm in self._live:
            await self._live[vm].wait()

    async def _signal_until(self, vm: str, number: signal.Signals, wanted: str) -> None:
        home, process = self._directories.path(vm), self._directories.known_process(vm)
        deadline = asyncio.get_running_loop().time() + _SIGNAL_DEADLINE_S
        while others := await asyncio.to_thread(_find_in_other_state, home, process, wanted):
            if asyncio.get_running_loop().time() > deadline:
                raise HypervisorError(f"processes {sorted(others)} of {vm} do not obey {number.name}")
            send_signal(others, number)
            await asyncio.sleep(_LOOK_INTERVAL_S)


def _find_in_other_state(home: Path, process: ProcessIdentity | None, wanted: str) -> set[int]:
    stats = [read_stat(pid) for pid in find_tree(home, process)]
    return {stat.pid for stat in stats if stat is not None and stat.run_state not in f"ZX{wanted}"}
