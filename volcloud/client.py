"""The Python client of Volunteer Cloud: submit jobs, follow them, take their outputs home; drive VMs.

    from volcloud.client import Client

    with Client.connect() as cloud:
        cloud.submit({"id": "hello-1", "executable": "/bin/echo", "arguments": ["hello"]})
        cloud.wait("hello-1")
        print(cloud.logs("hello-1")["stdout"].decode())

``Client`` blocks and may be used from one thread at a time; ``AsyncClient`` is the same for asyncio. Errors are
``volcloud.errors`` and ``broker.errors``; each says what to do next.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from broker.address import Address
from broker.rpc.execution import OnOutput
from schemas.description import JobDescription
from schemas.enrol import Credential
from schemas.execs import ExecEnded, Stream
from schemas.ledger import HostRow, JobRecord, JobRow, Jobs, JobsChanged, JobState, JobVerdict, RegistryRow
from schemas.vms import VmCommand, VmStatus
from volcloud.async_client import AsyncClient
from volcloud.data_directory import console_address
from volcloud.errors import Unreachable
from volcloud.file_calls import Progress, Say, say_nothing
from volcloud.job_file import PreparedJob
from volcloud.loop_thread import LoopThread
from volcloud.why import Explanation

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

#: Takes a command's output; runs in a thread of its own, and holds the command back while it is busy.
TakeOutput = Callable[[Stream, bytes], None]
#: As TakeOutput, for several VMs at once.
TakeVmOutput = Callable[[RegistryRow, Stream, bytes], None]


class Client:
    """A blocking client with a connection of its own. Use it as a context manager, or ``close`` it.

    Raises what ``AsyncClient`` does. Progress callbacks run in the client's thread and must return at once.
    """

    def __init__(self, address: Address, say: Say = say_nothing) -> None:
        """Connect as the principal of ``address``. ``say`` tells a person what is waited for, in the client's thread.

        Raises Unreachable."""
        self._thread = LoopThread("volcloud client")
        self._client = AsyncClient(address, say)
        try:
            self._thread.wait_for(self._client.open())
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, data: Path | str | None = None, say: Say = say_nothing) -> Client:
        """Connect to the system of a data directory: this one, VOLCLOUD_DATA, or the user's. Raises Unreachable."""
        return cls(console_address(data), say)

    def close(self) -> None:
        """Disconnect; a call that another thread waits for ends with Disconnected. Idempotent."""
        self._thread.close(self._client.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def user(self) -> str:
        """The principal that this client is; the owner of what it submits."""
        return self._client.user

    def hosts(self) -> list[HostRow]:
        """List the hosts that the centre knows."""
        return self._thread.wait_for(self._client.hosts())

    def vms(self, pattern: str = "*") -> list[RegistryRow]:
        """List the VMs whose name or id fits a shell pattern, by name."""
        return self._thread.wait_for(self._client.vms(pattern))

    def vms_named(self, pattern: str) -> list[RegistryRow]:
        """As ``vms``, at least one. Raises NoSuchVm naming those that there are."""
        return self._thread.wait_for(self._client.vms_named(pattern))

    def vm_create(
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
        """Make a VM on ``host``, which may be left out while there is only one. It is not started."""
        return self._thread.wait_for(
            self._client.vm_create(
                name,
                host=host,
                cpus=cpus,
                memory_mib=memory_mib,
                disk_mib=disk_mib,
                image=image,
                autostart=autostart,
            )
        )

    def vm_start(self, vm: str) -> VmStatus | None:
        """Boot a VM, or let it go on from its saved state."""
        return self._thread.wait_for(self._client.vm_start(vm))

    def vm_stop(self, vm: str) -> VmStatus | None:
        """Ask the guest to shut down, and wait."""
        return self._thread.wait_for(self._client.vm_stop(vm))

    def vm_pause(self, vm: str) -> VmStatus | None:
        """Freeze a VM, its memory kept."""
        return self._thread.wait_for(self._client.vm_pause(vm))

    def vm_resume(self, vm: str) -> VmStatus | None:
        """Let a paused VM go on."""
        return self._thread.wait_for(self._client.vm_resume(vm))

    def vm_reset(self, vm: str) -> VmStatus | None:
        """Reboot a VM without asking the guest."""
        return self._thread.wait_for(self._client.vm_reset(vm))

    def vm_poweroff(self, vm: str) -> VmStatus | None:
        """End a VM at once."""
        return self._thread.wait_for(self._client.vm_poweroff(vm))

    def vm_savestate(self, vm: str) -> VmStatus | None:
        """Write a VM's memory to disk and end it."""
        return self._thread.wait_for(self._client.vm_savestate(vm))

    def vm_discard(self, vm: str) -> VmStatus | None:
        """Throw a VM's saved state away; of a VM that was set aside, all that there is of it."""
        return self._thread.wait_for(self._client.vm_discard(vm))

    def vm_adopt(self, vm: str) -> VmStatus | None:
        """Take a VM back that was set aside."""
        return self._thread.wait_for(self._client.vm_adopt(vm))

    def vm_delete(self, vm: str) -> None:
        """Remove a VM and all that belongs to it."""
        self._thread.wait_for(self._client.vm_delete(vm))

    def command(self, row: RegistryRow, verb: type[VmCommand]) -> VmStatus | None:
        """Give one verb to one VM of the registry; give its status after it, None once it is gone."""
        return self._thread.wait_for(self._client.command(row, verb))

    def run(
        self,
        vm: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        on_output: TakeOutput | None = None,
        *,
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end. Ctrl-C goes to the command as SIGINT, a second one as SIGKILL."""
        row = self._thread.wait_for(self._client.vm_named(vm))
        take = None if on_output is None else lambda _, stream, data: on_output(stream, data)
        ended = self.run_on([row], command, env, take, timeout_s=timeout_s)[0]
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def run_on(
        self,
        rows: Iterable[RegistryRow],
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        on_output: TakeVmOutput | None = None,
        *,
        timeout_s: float = 3600.0,
    ) -> list[ExecEnded | BaseException]:
        """Run a command in several VMs at once, each under an id of its own; give each one's end, or its error."""
        executions = [
            self._client.execution(
                row, list(command), env=env, on_output=_in_thread(on_output, row), timeout_s=timeout_s
            )
            for row in rows
        ]
        work = self._thread.start(_all(one.run() for one in executions))
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                return self._thread.result(work)
            except KeyboardInterrupt:
                self._thread.wait_for(_all(one.signal(number) for one in executions))
        return self._thread.result(work)

    def push(self, local: Path | str, vm: str, path: str, *, progress: Progress | None = None) -> str:
        """Send a file into a VM, to a path below its agent's file area; give its SHA-256."""
        return self._thread.wait_for(self._client.push(local, vm, path, progress=progress))

    def pull(self, vm: str, path: str, local: Path | str, *, progress: Progress | None = None) -> int:
        """Take a file out of a VM's file area; give its size."""
        return self._thread.wait_for(self._client.pull(vm, path, local, progress=progress))

    def upload(self, path: Path | str, *, progress: Progress | None = None) -> str:
        """Put a file in the store as a job's input; give the SHA-256 by which a description names it."""
        return self._thread.wait_for(self._client.upload(path, progress=progress))

    def submit(
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
        return self._thread.wait_for(self._client.submit(job, job_id=job_id, array=array, progress=progress))

    def submit_prepared(self, job: PreparedJob, progress: Progress | None = None) -> JobVerdict:
        """Submit a job that ``volcloud.job_file.prepare`` has read."""
        return self._thread.wait_for(self._client.submit_prepared(job, progress))

    def jobs(
        self,
        *,
        owner: str = "",
        job: str = "",
        states: Iterable[JobState] = (),
        limit: int = 100,
        before: int | None = None,
    ) -> Jobs:
        """List jobs, newest first, with the counts by state of all that were asked for."""
        return self._thread.wait_for(self._client.jobs(owner=owner, job=job, states=states, limit=limit, before=before))

    def jobs_named(self, name: str) -> list[JobRow]:
        """Give every job that a name stands for, by index. Raises NoSuchJob."""
        return self._thread.wait_for(self._client.jobs_named(name))

    def show(self, name: str, *, on_trouble: Callable[[Unreachable], None] | None = None) -> JobRecord:
        """Give all that is known of one job. Raises NoSuchJob, BadInput."""
        return self._thread.wait_for(self._client.show(name, on_trouble=on_trouble))

    def why(self, name: str) -> Explanation:
        """Say why a job is where it is, and what to do next."""
        return self._thread.wait_for(self._client.why(name))

    def logs(self, name: str, attempt: int | None = None) -> dict[str, bytes]:
        """Give what an attempt printed (the last that ended, unless one is named), by stream. Raises NoSuchJob."""
        return self._thread.wait_for(self._client.logs(name, attempt))

    def fetch(
        self,
        name: str,
        directory: Path | str,
        *,
        overwrite: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Path]:
        """Bring one job's outputs, stdout and stderr included, into a directory; give their paths. Raises CommandFailed
        where another file is in the way, unless ``overwrite``."""
        return self._thread.wait_for(self._client.fetch(name, directory, overwrite=overwrite, progress=progress))

    def cancel(self, name: str) -> JobsChanged:
        """Cancel a job, or all of an array: what waits ends at once, what runs soon after."""
        return self._thread.wait_for(self._client.cancel(name))

    def retry(self, name: str) -> JobsChanged:
        """Release held and failed jobs; their counts start again."""
        return self._thread.wait_for(self._client.retry(name))

    def delete(self, name: str) -> JobsChanged:
        """Delete a job, or all of an array, with outputs and history; what waits or runs is left, as ``pending``."""
        return self._thread.wait_for(self._client.delete(name))

    def wait(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        on_change: Callable[[dict[str, int]], None] | None = None,
        on_still: Callable[[Explanation], None] | None = None,
        on_trouble: Callable[[Unreachable], None] | None = None,
    ) -> list[JobRow]:
        """Wait until every job of a name is done, failed, cancelled or held; give them. Raises WaitTimeout.

        A centre that is away for a while after its first answer is waited for too.
        """
        work = self._client.wait(
            name, timeout_s=timeout_s, on_change=on_change, on_still=on_still, on_trouble=on_trouble
        )
        return self._thread.wait_for(work)

    def add_site(self, site: str) -> Credential:
        """Make a grid site's principal, or give the one that there is."""
        return self._thread.wait_for(self._client.add_site(site))

    def delete_principal(self, principal: str) -> None:
        """Delete a site's, a host's or a VM's principal with its queues."""
        self._thread.wait_for(self._client.delete_principal(principal))


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def _in_thread(on_output: TakeVmOutput | None, row: RegistryRow) -> OnOutput | None:
    """Let a callback that may block wait for its reader without stopping the connection's heartbeats."""
    if on_output is None:
        return None

    async def take(stream: Stream, data: bytes) -> None:
        await asyncio.to_thread(on_output, row, stream, data)

    return take
