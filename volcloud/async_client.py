"""The client for asyncio: everything that ``volcloud`` can do, as methods. ``volcloud.client`` has the blocking twin.

One connection, one exclusive reply queue; answers, command output and files all come there. Belongs to the loop that
connected it. Nothing is printed here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from broker.address import Address
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.errors import BrokerError, CallTimeout, Crowded, Disconnected, LoginRefused, QueueGone, Untrusted
from broker.rpc import Caller
from broker.rpc.execution import Execution, OnOutput
from broker.transfer import Transfers
from schemas.description import JobDescription
from schemas.envelope import Message
from schemas.execs import ExecEnded, ExecRun
from schemas.files import OutputFile
from schemas.ids import uuid7
from schemas.jobs import OutputEntry
from schemas.ledger import AttemptRow, HostRow, JobRecord, JobVerdict, RegistryRow
from schemas.vms import (
    VmAdopt,
    VmCommand,
    VmCreate,
    VmDelete,
    VmDiscard,
    VmPause,
    VmPoweroff,
    VmReset,
    VmResume,
    Vms,
    VmSavestate,
    VmStart,
    VmStatus,
    VmStop,
)
from volcloud.centre_calls import CentreCalls
from volcloud.data_directory import console_address
from volcloud.errors import BadInput, CommandFailed, NoSuchJob, Unreachable
from volcloud.file_calls import FileCalls, Progress, Say, say_nothing
from volcloud.job_file import PreparedJob, prepare
from volcloud.landing import Landing
from volcloud.rendering import span
from volcloud.why import Explanation, explain

#: How long connecting may take before the system counts as unreachable, seconds: a person waits, and is told in ten;
#: a broker that is started again is back before. After so long he is told what is waited for.
PATIENCE_S, SAY_AFTER_S = 7.5, 3.0
#: How long a host may take for a verb, seconds; a guest under emulation may need a minute to shut down.
VERB_S = 180.0
#: States in which a VM's agent can answer.
_LIVE = frozenset({"running", "starting", "stopping", "unknown"})
_VM_NAME = re.compile("[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
_STREAMS = ("stdout", "stderr", "validation.stdout", "validation.stderr")


class AsyncClient(CentreCalls):
    """See the module; the questions to the centre are inherited.

    Raises, everywhere: Unreachable (no broker, no answer), RemoteError (the other side says no, with a code),
    CallTimeout (an agent is silent), and what each method names.
    """

    def __init__(self, address: Address, say: Say = say_nothing) -> None:
        """``say`` tells a person what is waited for; it is called in the client's loop."""
        self._address, self._say = address, say
        self._connection = Connection(address, name=f"{address.user} client", wait_most_s=CENTRE_WAIT_MOST_S)

    @classmethod
    async def connect(cls, data: Path | str | None = None, say: Say = say_nothing) -> AsyncClient:
        """Connect to the system of a data directory: this one, VOLCLOUD_DATA, or the user's. Raises Unreachable."""
        client = cls(console_address(data), say)
        await client.open()
        return client

    async def open(self) -> None:
        """Connect; call once. Raises Unreachable."""
        where = f"the broker at {self._address.where}"
        try:
            with self._saying_after(SAY_AFTER_S, lambda: f"waiting for {where}: {self._connection.last_error}"):
                await self._connection.open(patience_s=PATIENCE_S)
            self._caller = Caller(self._connection)
            self._transfers = Transfers(self._connection, my_suffix=self._caller.suffix)
            self._caller.on_other = self._transfers.on_message
            await self._caller.open(self._address.user)
        except Disconnected as error:
            await self.close()
            raise self._unreachable(where, error) from error
        except (LoginRefused, QueueGone, Untrusted) as error:
            await self.close()
            raise self._refused(where, error) from error
        super().__init__(self._caller)
        self._files = FileCalls(self._transfers, self._say)

    @contextmanager
    def _saying_after(self, silence_s: float, text: Callable[[], str]) -> Iterator[None]:
        """Say it once if what is inside takes so long."""
        timer = asyncio.get_running_loop().call_later(silence_s, lambda: self._say(text()))
        try:
            yield
        finally:
            timer.cancel()

    def _refused(self, where: str, error: BrokerError) -> Unreachable:
        if isinstance(error, Untrusted):
            text = f"{where} is not to be trusted: {error}"
            return Unreachable(text, "mend the tls part of the credential, or what the broker shows")
        text = f"{where} refuses {self._address.user}: {error}"
        return Unreachable(text, "the credential is of another system: `volcloud down`, then up again")

    def _unreachable(self, where: str, error: Disconnected) -> Unreachable:
        if isinstance(self._connection.last_error, Crowded):
            text = f"{self._address.user} has as many connections as it may have at once: {self._connection.last_error}"
            return Unreachable(text, "end one of its other commands, or wait for it")
        text = f"{where} does not answer in {PATIENCE_S:g} s"
        why = str(self._connection.last_error)
        return Unreachable(text if why in text else f"{text}: {why}", "start it with `volcloud up`")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def user(self) -> str:
        """The principal that this client is; the owner of what it submits."""
        return self._address.user

    # VMs

    async def vm_create(
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
        return _status(await self._caller.call(row.host, order, Vms, timeout_s=VERB_S))

    async def vm_start(self, vm: str) -> VmStatus | None:
        """Boot a VM, or let it go on from its saved state."""
        return await self.command(await self.vm_named(vm), VmStart)

    async def vm_stop(self, vm: str) -> VmStatus | None:
        """Ask the guest to shut down, and wait."""
        return await self.command(await self.vm_named(vm), VmStop)

    async def vm_pause(self, vm: str) -> VmStatus | None:
        """Freeze a VM, its memory kept."""
        return await self.command(await self.vm_named(vm), VmPause)

    async def vm_resume(self, vm: str) -> VmStatus | None:
        """Let a paused VM go on."""
        return await self.command(await self.vm_named(vm), VmResume)

    async def vm_reset(self, vm: str) -> VmStatus | None:
        """Reboot a VM without asking the guest."""
        return await self.command(await self.vm_named(vm), VmReset)

    async def vm_poweroff(self, vm: str) -> VmStatus | None:
        """End a VM at once."""
        return await self.command(await self.vm_named(vm), VmPoweroff)

    async def vm_savestate(self, vm: str) -> VmStatus | None:
        """Write a VM's memory to disk and end it."""
        return await self.command(await self.vm_named(vm), VmSavestate)

    async def vm_discard(self, vm: str) -> VmStatus | None:
        """Throw a VM's saved state away; of a VM that was set aside, all that there is of it."""
        return await self.command(await self.vm_named(vm), VmDiscard)

    async def vm_adopt(self, vm: str) -> VmStatus | None:
        """Take a VM back that was set aside."""
        return await self.command(await self.vm_named(vm), VmAdopt)

    async def vm_delete(self, vm: str) -> None:
        """Remove a VM and all that belongs to it."""
        await self.command(await self.vm_named(vm), VmDelete)

    async def command(self, row: RegistryRow, verb: type[VmCommand]) -> VmStatus | None:
        """Give one verb to the host of one VM of the registry; give the status after it, None once it is gone."""
        with self._saying_since(row.seen_ms):
            answer = await self._caller.call(row.host, verb(vm=row.status.vm), Message, timeout_s=VERB_S)
        return _status(answer) if isinstance(answer, Vms) and answer.vms else None

    @contextmanager
    def _saying_since(self, seen_ms: int) -> Iterator[None]:
        """Add to an agent's silence since when the centre has not heard of it either."""
        try:
            yield
        except CallTimeout as error:
            since = f"; the centre heard of it last {span((self._caller.now_ms - seen_ms) / 1000)} ago"
            raise CallTimeout(f"{error}{since}", accepted=error.accepted) from error

    # Commands in VMs

    def execution(
        self,
        row: RegistryRow,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
        timeout_s: float = 3600.0,
    ) -> Execution:
        """Prepare a command for a VM of the registry; ``await execution.run()`` runs it. Raises CommandFailed when
        that VM does not run."""
        _check_live(row)
        order = ExecRun(command=command, environment=dict(env or {}), timeout_s=timeout_s, id=uuid7())
        return Execution(self._connection, self._caller, row.status.vm, order, on_output)

    async def run(
        self,
        vm: str,
        command: list[str],
        env: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
        *,
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end; its output is given in order, and held back while ``on_output`` is busy."""
        row = await self.vm_named(vm)
        return await self.execution(row, command, env=env, on_output=on_output, timeout_s=timeout_s).run()

    # Files

    async def push(self, local: Path | str, vm: str, path: str, *, progress: Progress | None = None) -> str:
        """Send a file into a VM, to a path below its agent's file area; give its SHA-256."""
        row = await self.vm_named(vm)
        _check_live(row)
        return await self._files.push(Path(local), row.status.vm, path, progress)

    async def pull(self, vm: str, path: str, local: Path | str, *, progress: Progress | None = None) -> int:
        """Take a file out of a VM's file area; give its size."""
        row = await self.vm_named(vm)
        _check_live(row)
        return (await self._files.pull(row.status.vm, path, Path(local), progress)).size

    async def upload(self, path: Path | str, *, progress: Progress | None = None) -> str:
        """Put a file in the store as a job's input; give the SHA-256 by which a description names it."""
        return await self._files.upload(Path(path), progress)

    # Jobs

    async def submit(
        self,
        job: JobDescription | Mapping[str, Any] | Path | str,
        *,
        job_id: str | None = None,
        array: int | None = None,
        progress: Progress | None = None,
    ) -> JobVerdict:
        """Submit a description, a mapping, or a job file; local inputs are uploaded first. Repeating it is safe.

        Raises BadInput (nothing was sent), SubmissionRefused (with the centre's reasons).
        """
        return await self.submit_prepared(await asyncio.to_thread(prepare, job, job_id=job_id, array=array), progress)

    async def submit_prepared(self, job: PreparedJob, progress: Progress | None = None) -> JobVerdict:
        """Submit a job that ``volcloud.job_file.prepare`` has read."""
        for path in job.uploads.values():
            await self._files.upload(path, progress)
        return await self.submit_description(job.description)

    async def why(self, name: str) -> Explanation:
        """Say why a job is where it is, and what to do next."""
        return explain(await self.show(name))

    async def logs(self, name: str, attempt: int | None = None) -> dict[str, bytes]:
        """Give what an attempt printed (the last that ended, unless one is named), by stream. Raises NoSuchJob."""
        record = await self.show(name)
        chosen = _attempt_with_outputs(record, attempt)
        streams = [entry for entry in chosen.outputs if entry.name in _STREAMS]
        with TemporaryDirectory(prefix="volcloud-") as scratch:
            directory = Path(scratch)
            for entry in streams:
                await self._download(record.job.job, chosen, entry, directory / entry.name, None)
            return {entry.name: (directory / entry.name).read_bytes() for entry in streams}

    async def fetch(
        self,
        name: str,
        directory: Path | str,
        *,
        overwrite: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Path]:
        """Bring one job's outputs, stdout and stderr included, into a directory; give their paths. Raises NoSuchJob,
        and CommandFailed where another file is in the way, unless ``overwrite``; then nothing has been fetched.

        ``progress`` is called with (output, bytes so far, size). A file that is there already is not fetched again.
        """
        record = await self.show(name)
        chosen = _attempt_with_outputs(record, None)
        landing = Landing(Path(directory), chosen.outputs)
        for entry, path in await asyncio.to_thread(landing.missing, overwrite=overwrite):
            await self._download(record.job.job, chosen, entry, path, _named(progress, entry.name))
        return landing.paths

    async def _download(
        self, job: str, attempt: AttemptRow, entry: OutputEntry, path: Path, progress: Progress | None
    ) -> None:
        output = OutputFile(job=job, attempt=attempt.attempt, name=entry.name)
        await self._files.download(output, entry, path, progress)

    async def _host_named(self, name: str) -> HostRow:
        hosts = await self.hosts()
        chosen = [row for row in hosts if name in (row.host, row.facts.hostname) or (not name and row.present)]
        if len(chosen) == 1:
            return chosen[0]
        known = ", ".join(row.host for row in hosts) or "none"
        what = f"no host is called {name!r}" if name else f"{len(chosen)} hosts are present"
        raise CommandFailed(f"{what}; known: {known}", "name one with --host; `volcloud host list` shows them")


def _status(answer: Vms) -> VmStatus:
    return answer.vms[0]


#: Which verb makes a VM of that state live.
_WAY_BACK = {"paused": "resume", "set_aside": "adopt"}
#: State of a VM that its host knows and of which it finds nothing; the reason says what to do.
_MISSING = "missing"


def _check_live(row: RegistryRow) -> None:
    if row.status.state not in _LIVE:
        text = f"VM {row.status.name} is {row.status.state}: its agent cannot answer"
        if row.status.state == _MISSING:
            raise CommandFailed(text, row.status.reason)
        verb = _WAY_BACK.get(row.status.state, "start")
        # By its id: other VMs may have that name.
        raise CommandFailed(text, f"`volcloud vm {verb} {row.status.vm}`, and wait until its agent is ready")


def _attempt_with_outputs(record: JobRecord, attempt: int | None) -> AttemptRow:
    """Choose the attempt that was named, else the last one that left something."""
    rows = [row for row in record.attempts if attempt in (None, row.attempt)]
    left = [row for row in rows if row.outputs]
    if left:
        return left[-1]
    which = "attempt" if attempt is None else f"attempt {attempt}"
    text = f"job {record.job.job} is {record.job.state}: no {which} has left any output"
    raise NoSuchJob(text, f"`volcloud job why {record.job.job}` tells where it is")


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Progress | None:
    return None if progress is None else lambda done, size: progress(name, done, size)
