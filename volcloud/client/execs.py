"""Commands run in VMs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from broker.rpc.execution import Execution, OnOutput
from schemas.execs import ExecEnded, ExecRun, Stream
from schemas.ids import uuid7
from schemas.ledger import RegistryRow
from volcloud.client.blocking import Blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import shown
from volcloud.client.vms import AsyncVms, check_live

T = TypeVar("T")

#: Takes a command's output; runs in a thread of its own, and holds the command back while it is busy.
TakeOutput = Callable[[Stream, bytes], None]
#: As TakeOutput, for several VMs at once.
TakeVmOutput = Callable[[RegistryRow, Stream, bytes], None]


class AsyncExecs:
    """See the module."""

    def __init__(self, session: ClientSession, vms: AsyncVms) -> None:
        self._session, self._vms = session, vms

    async def run(
        self,
        vm: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
        *,
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end; its output is given in order, and held back while ``on_output`` is busy."""
        row = await self._vms.get(vm)
        return shown(await self.prepare(row, command, env=env, on_output=on_output, timeout_s=timeout_s).run())

    def prepare(
        self,
        row: RegistryRow,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
        timeout_s: float = 3600.0,
    ) -> Execution:
        """Prepare a command for a VM of the registry; ``await execution.run()`` runs it, and ``signal`` signals it.
        Raises CommandFailed when that VM does not run."""
        order = ExecRun(command=[*command], environment=dict(env or {}), timeout_s=timeout_s, id=uuid7())
        session = self._session
        return Execution(session.connection, session.caller, check_live(row).status.vm, order, on_output)


class BlockingExecs(Blocking[AsyncExecs]):
    """See the module."""

    def run(
        self,
        vm: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        on_output: TakeOutput | None = None,
        *,
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end; its output is given in order, and held back while ``on_output`` is busy.

        Ctrl-C goes to the command as SIGINT, a second one as SIGKILL."""
        row = self._thread.wait_for(self._twin._vms.get(vm))
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
            self._twin.prepare(row, command, env=env, on_output=_in_thread(on_output, row), timeout_s=timeout_s)
            for row in rows
        ]
        work = self._thread.start(_all(one.run() for one in executions))
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                return [shown(end) for end in self._thread.result(work)]
            except KeyboardInterrupt:
                self._thread.wait_for(_all(one.signal(number) for one in executions))
        return [shown(end) for end in self._thread.result(work)]


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def _in_thread(on_output: TakeVmOutput | None, row: RegistryRow) -> OnOutput | None:
    """Let a callback that may block wait for its reader without stopping the connection's heartbeats."""
    if on_output is None:
        return None

    async def take(stream: Stream, data: bytes) -> None:
        await asyncio.to_thread(on_output, row, stream, data)

    return take
