"""Commands run in VMs, with us as their console or without one."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from broker.errors import BrokerError, CallTimeout
from broker.routes import down
from broker.rpc.caller import ACCEPT_TIMEOUT_S
from broker.rpc.execution import Execution, OnOutput
from broker.rpc.input import BytesSource, InputSource
from schemas.envelope import Done
from schemas.errors import SchemaError
from schemas.execs import ExecAttach, ExecDetach, ExecEnded, ExecKill, ExecList, ExecRow, ExecRows, ExecRun, Stream
from schemas.ids import uuid7
from schemas.ledger import RegistryRow
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shell_session import Keys, ShellSession
from volcloud.client.shown import Table, shown
from volcloud.client.vms import AsyncVms, check_live
from volcloud.errors import BadInput, CommandFailed, VolcloudError

T = TypeVar("T")

#: How long a detached command may run unless it is said, seconds: a day.
DETACHED_S = 86400.0
#: The largest number of a signal.
MOST_SIGNAL = 64
_ID = re.compile("[0-9A-Za-z-]{1,64}")
#: VMs in which commands are begun at once, of any number.
MOST_AT_ONCE = 100
#: How long a guest may take to answer about its commands, seconds.
ANSWER_S = 30.0

#: Takes a command's output; runs in a thread of its own, and holds the command back while it is busy.
TakeOutput = Callable[[Stream, bytes], None]
#: Told of a detached command that has begun, by its VM and its id.
OnBegun = Callable[[RegistryRow, str], None]
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
        stdin: bytes | InputSource | None = None,
        directory: str = "",
        user: str = "",
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end; its output is given in order, and held back while ``on_output`` is busy.

        ``stdin`` is its standard input: bytes, or where they come from.
        ``directory`` exists in the guest, the file area unless it is said; ``user`` is one of the guest's."""
        row = await self._vms.recent(vm)
        more: dict[str, Any] = {"directory": directory, "user": user, "timeout_s": timeout_s}
        order = ExecRun(command=[*command], environment=dict(env or {}), has_input=stdin is not None, **more)
        source = BytesSource(stdin) if isinstance(stdin, bytes) else stdin
        return shown(await self.prepare(row, order, on_output, source=source).run())

    def prepare(
        self,
        row: RegistryRow,
        order: ExecRun | ExecAttach,
        on_output: OnOutput | None = None,
        *,
        source: InputSource | None = None,
        patience_s: float = ACCEPT_TIMEOUT_S,
    ) -> Execution:
        """Prepare a command for a VM of the registry; ``await execution.run()`` runs it, and ``signal`` signals it.
        Raises CommandFailed when that VM does not run, and BadInput."""
        if isinstance(order, ExecRun):
            check_environment(order.environment)
        session, vm = self._session, check_live(row).status.vm
        return Execution(session.connection, session.caller, vm, order, on_output, source=source, patience_s=patience_s)

    async def detach(
        self,
        vm: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: str = "",
        user: str = "",
        timeout_s: float = DETACHED_S,
        patience_s: float = ACCEPT_TIMEOUT_S,
    ) -> str:
        """Begin a command that runs on without us, and give its id. The VM keeps head and tail of its output, 16 MiB.

        It begins within ``patience_s`` or never: CallTimeout is raised then. Where that says ``accepted``, ``list``
        tells whether it has begun."""
        order = _detached(command, env, directory=directory, user=user, timeout_s=timeout_s)
        return await self._begin(await self._vms.get(vm), order, patience_s)

    async def detach_on(
        self,
        rows: Sequence[RegistryRow],
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: str = "",
        user: str = "",
        timeout_s: float = DETACHED_S,
        patience_s: float = ACCEPT_TIMEOUT_S,
        on_begun: OnBegun = lambda row, exec_id: None,
    ) -> Sequence[str | VolcloudError | BrokerError | SchemaError]:
        """As ``detach``, in several VMs of the registry at once; in place of an id, why it does not run there.

        ``on_begun`` is called with each id as soon as it is known, and must not block: who is interrupted knows then
        what runs."""
        order = _detached(command, env, directory=directory, user=user, timeout_s=timeout_s)
        turns, _ = asyncio.Semaphore(MOST_AT_ONCE), self._session.caller  # raises where there is none

        async def begin(row: RegistryRow) -> str | VolcloudError | BrokerError | SchemaError:
            async with turns:
                try:
                    exec_id = await self._begin(row, msgspec.structs.replace(order, id=uuid7()), patience_s)
                except (VolcloudError, BrokerError, SchemaError) as error:
                    return error
                on_begun(row, exec_id)
                return exec_id

        return await asyncio.gather(*map(begin, rows))

    async def _begin(self, row: RegistryRow, order: ExecDetach, patience_s: float) -> str:
        vm, limits = check_live(row).status.vm, {"accept_s": patience_s, "begin_s": patience_s}
        try:
            await self._session.caller.call(vm, order, Done, timeout_s=ANSWER_S + patience_s, **limits)
        except (CallTimeout, asyncio.CancelledError) as error:
            # It may have begun at the last moment, or may begin, and nobody would know its id.
            if not (isinstance(error, CallTimeout) and error.accepted):
                kill = ExecKill(id=uuid7(), exec_id=order.id, signal=signal.SIGKILL)
                self._session.caller.send(down(vm), kill)
            raise
        return order.id

    async def list(self, vm: str) -> Table[ExecRow]:
        """List the commands that run in a VM, and the detached ones of which it keeps the output, oldest first."""
        row = check_live(await self._vms.get(vm))
        rows = await self._session.caller.call(row.status.vm, ExecList(id=uuid7()), ExecRows, timeout_s=ANSWER_S)
        return Table(map(shown, rows.commands))

    async def attach(self, vm: str, id: str, on_output: OnOutput | None = None) -> ExecEnded:  # noqa: A002
        """Follow a detached command of one's own: all its output so far, what comes, and its end. As often as wanted,
        also when it has ended, by one at a time; who stops to follow it does not end it."""
        order = ExecAttach(exec_id=_checked(id))
        return shown(await self.prepare(await self._vms.get(vm), order, on_output).run())

    async def kill(self, vm: str, id: str, signal: int = signal.SIGTERM) -> None:  # noqa: A002
        """Send a signal to the process group of a command of one's own. Raises RemoteError when none runs."""
        if not 1 <= signal <= MOST_SIGNAL:
            raise BadInput(f"signal = {signal}: must be from 1 to {MOST_SIGNAL}", "give another")
        order = ExecKill(id=uuid7(), exec_id=_checked(id), signal=signal)
        row = check_live(await self._vms.get(vm))
        await self._session.caller.call(row.status.vm, order, Done, timeout_s=ANSWER_S)


class BlockingExecs(Blocking[AsyncExecs]):
    """See the module."""

    detach = blocking(AsyncExecs.detach)
    detach_on = blocking(AsyncExecs.detach_on)
    list = blocking(AsyncExecs.list)
    kill = blocking(AsyncExecs.kill)

    def run(
        self,
        vm: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        on_output: TakeOutput | None = None,
        *,
        stdin: bytes | None = None,
        directory: str = "",
        user: str = "",
        timeout_s: float = 3600.0,
    ) -> ExecEnded:
        """Run a command in a VM to its end; its output is given in order, and held back while ``on_output`` is busy.

        ``stdin`` is its standard input. ``directory`` exists in the guest, the file area unless it is said; ``user`` is
        one of the guest's. Ctrl-C goes to the command as SIGINT, a second one as SIGKILL."""
        more: dict[str, Any] = {"directory": directory, "user": user, "timeout_s": timeout_s}
        order = ExecRun(command=[*command], environment=dict(env or {}), has_input=stdin is not None, **more)
        row = self._thread.wait_for(self._twin._vms.recent(vm))
        take = None if on_output is None else lambda _, stream, data: on_output(stream, data)
        sources = None if stdin is None else {row.status.vm: BytesSource(stdin)}
        ended = self.run_on([row], order, take, sources=sources)[0]
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def attach(self, vm: str, id: str, on_output: TakeOutput | None = None) -> ExecEnded:  # noqa: A002
        """Follow a detached command of one's own: all its output so far, what comes, and its end. As often as wanted,
        also when it has ended, by one at a time; who stops to follow it does not end it."""
        row = self._thread.wait_for(self._twin._vms.get(vm))
        take = None if on_output is None else in_thread(lambda _, stream, data: on_output(stream, data), row)
        return self._thread.wait_for(self._twin.attach(row.status.vm, id, take))

    def list_on(self, rows: Iterable[RegistryRow]) -> Sequence[Table[ExecRow] | BaseException]:
        """As ``list``, of several VMs at once; give each one's commands, or its error."""
        return self._thread.wait_for(_all(self._twin.list(row.status.vm) for row in rows))

    def session(self, vm: str, order: ExecRun, on_output: TakeOutput, keys: Keys) -> ShellSession:
        """Begin a command on a terminal of its own in a VM; ``keys`` are typed to it."""
        row = self._thread.wait_for(self._twin._vms.get(vm))
        take = in_thread(lambda _, stream, data: on_output(stream, data), row)
        execution = self._twin.prepare(row, order, take, source=keys)
        return ShellSession(self._thread, execution, keys, self._twin._session.connection)

    def run_on(
        self,
        rows: Iterable[RegistryRow],
        order: ExecRun,
        on_output: TakeVmOutput | None = None,
        *,
        sources: Mapping[str, InputSource] | None = None,
        patience_s: float = ACCEPT_TIMEOUT_S,
    ) -> Sequence[ExecEnded | BaseException]:
        """Run a command in several VMs at once, each under an id of its own; give each one's end, or its error.

        ``sources`` gives the input of each, by the VM's id. Ctrl-C: see ``run``."""
        sources = sources or {}
        ready = [self._prepared(row, order, on_output, sources.get(row.status.vm), patience_s) for row in rows]
        executions = [one for one in ready if isinstance(one, Execution)]
        work: Future[Sequence[ExecEnded | BaseException]] = self._thread.start(_all(one.run() for one in executions))
        all_ends = self._interruptible(work, executions)
        ends = iter(all_ends)
        return [shown(next(ends)) if isinstance(one, Execution) else one for one in ready]

    def _prepared(
        self,
        row: RegistryRow,
        order: ExecRun,
        on_output: TakeVmOutput | None,
        source: InputSource | None,
        patience_s: float,
    ) -> Execution | CommandFailed:
        """Prepare it for one VM; or say why that cannot run it."""
        take = None if on_output is None else in_thread(on_output, row)
        own = msgspec.structs.replace(order, id=uuid7(), has_input=source is not None)
        try:
            return self._twin.prepare(row, own, take, source=source, patience_s=patience_s)
        except CommandFailed as error:
            if source is not None:
                source.close()
            return error

    def _interruptible(self, work: Future[T], executions: Sequence[Execution]) -> T:
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                return self._thread.result(work)
            except KeyboardInterrupt:
                self._thread.wait_for(_all(one.signal(number) for one in executions))
        return self._thread.result(work)


def _detached(command: Sequence[str], env: Mapping[str, str] | None, **more: Any) -> ExecDetach:
    check_environment(env or {})
    return ExecDetach(id=uuid7(), command=[*command], environment=dict(env or {}), **more)


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise BadInput unless a program can be started with these variables."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name:
            allowed = "must not be empty, nor hold '=' or a NUL character"
            raise BadInput(f"name of a variable of the environment = {name[:100]!r}: {allowed}", "give it another name")
        if "\0" in value:
            text = f"environment: {name[:100]!r} = {value[:100]!r}: must not hold a NUL character"
            raise BadInput(text, "leave it out")


def _checked(exec_id: str) -> str:
    """Give an id back that can be one. Raises BadInput."""
    if not _ID.fullmatch(exec_id):
        raise BadInput(f"id = {exec_id[:100]!r}: no command has such an id", "`volcloud vm ps` lists them")
    return exec_id


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T | BaseException]:
    ends: Sequence[T | BaseException] = await asyncio.gather(*work, return_exceptions=True)
    return ends


def in_thread(on_output: TakeVmOutput, row: RegistryRow) -> OnOutput:
    """Let a callback that may block wait for its reader without stopping the connection's heartbeats."""

    async def take(stream: Stream, data: bytes) -> None:
        await asyncio.to_thread(on_output, row, stream, data)

    return take
