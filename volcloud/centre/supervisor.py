"""The process that holds a system up: broker, key manager, adapters, host agent, in that order, and down in the other.

What dies is started again, whatever killed it and for as long as it takes; a signal at any time, also while things
still start, ends all of it in order.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.daemon.tasks import wholly
from broker.errors import BrokerError
from broker.node import STOP_TIMEOUT_S, NodeAddress
from volcloud.centre.broker_process import BrokerProcess
from volcloud.centre.child import Child, daemon_command
from volcloud.centre.chores import keep_doing
from volcloud.centre.existing_vms import refuse_unlike
from volcloud.centre.guest_image import provide_image
from volcloud.centre.health import keep_watch
from volcloud.centre.interruption import Ground, ended_from_outside
from volcloud.centre.layout import Layout
from volcloud.centre.log_bounds import keep_bounded
from volcloud.centre.plan import (
    HOST_AGENT,
    KEY_MANAGER,
    Daemon,
    Names,
    Plan,
    daemons,
    settle_names,
    settle_port,
    write_configurations,
)
from volcloud.centre.process_state import SUPERVISOR, write_state
from volcloud.centre.readiness import Beginning, wait_credentials, wait_ready
from volcloud.centre.stopping import Say, clean_up, end_marked, live_supervisor, power_off_all, registered_vms
from volcloud.errors import CommandFailed, VolcloudError

#: How long the broker may take to end once its directory is gone, seconds: nothing is left to be written in order.
_LOST_PATIENCE_S = 3.0
#: How often the names of the host's VMs are read, seconds.
_NAMES_S = 2.0


class Supervisor:
    """See the module. ``hold`` once."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan, self._layout = plan, plan.layout
        self._say = say
        self._broker = BrokerProcess(self._layout, say)
        self._children: dict[str, Child] = {}
        self._names = Names(host="")
        self._vms: set[Path] = set()
        self._is_settled = False

    async def hold(self, on_ready: Callable[[], None]) -> None:
        """Bring the system up, call ``on_ready``, and hold it until cancelled; then take it down, wholly.

        Raises VolcloudError or BrokerError when it does not come up; then it is down too.
        """
        self._layout.make()
        ground = Ground(self._layout.root, follows_starter=False)
        with _locked(self._layout):
            await asyncio.to_thread(clean_up, self._layout, self._say)
            await asyncio.to_thread(refuse_unlike, self._plan)
            write_state(self._layout.supervisor, SUPERVISOR, os.getpid())
            try:
                await self._run(on_ready)
            finally:
                await wholly(self._take_down(ground))

    async def _run(self, on_ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._bring_up(group)
                self._settle()
                self._do(group, "health", lambda: keep_watch(self._layout, self._say))
                on_ready()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    async def _bring_up(self, group: asyncio.TaskGroup) -> None:
        images = [await provide_image(self._layout, self._say)] if self._plan.hypervisor == "qemu" else []
        self._names = await asyncio.to_thread(settle_names, self._plan)
        await self._broker.start()
        group.create_task(self._broker.keep_up(self._tell_where), name="broker node")
        logs = [self._layout.logs, self._layout.node / "log"]
        self._do(group, "log bounds", lambda: keep_bounded(logs, self._say))
        self._do(group, "names of VMs", self._know_vms)
        write_configurations(self._plan, self._names, images)
        processes, beginning = daemons(self._plan), Beginning.of(self._layout)
        self._say("starting the key manager")
        self._start(group, processes[0])
        await self._wait_credentials()
        self._say(f"starting {', '.join(process.name for process in processes[1:])}")
        for process in processes[1:]:
            self._start(group, process)
        await wait_ready(self._plan, lambda: self._names, processes, beginning, self._say)

    def _start(self, group: asyncio.TaskGroup, process: Daemon) -> None:
        command = daemon_command(process.module, self._layout.config(process.name))
        child = self._children[process.name] = Child(self._layout, process.name, command, self._say)
        if process.has_metrics:
            child.prepare = lambda: self._settle_port(process.name)
        group.create_task(child.keep_up(), name=process.name)

    def _settle_port(self, process: str) -> None:
        """Before each start: a port was free when it was chosen, and may be somebody else's by now."""
        before = self._names.metrics[process]
        self._names = settle_port(self._plan, self._names, process)
        if (now := self._names.metrics[process]) != before:
            self._say(f"port {before} is somebody else's; {process} answers scrapes on {now}")

    def _do(self, group: asyncio.TaskGroup, name: str, chore: Callable[[], Awaitable[None]]) -> None:
        group.create_task(keep_doing(name, chore, self._say), name=name)

    def _settle(self) -> None:
        """From here on nothing that dies ends the system: it is started again for ever."""
        self._is_settled = self._broker.is_settled = True
        for child in self._children.values():
            child.is_settled = True

    async def _wait_credentials(self) -> None:
        await wait_credentials(self._plan, self._names, lambda: self._broker.address.amqp_port)

    async def _tell_where(self, before: NodeAddress, now: NodeAddress) -> None:
        """The broker is elsewhere: let credentials say so, and every process read them anew."""
        self._say(
            f"port {before.amqp_port} is somebody else's; the broker listens on {now.amqp_port}: telling everybody"
        )
        if KEY_MANAGER in self._children:
            await self._children[KEY_MANAGER].restart()
            await self._wait_credentials()
        others = [child for name, child in self._children.items() if name != KEY_MANAGER]
        await asyncio.gather(*(child.restart() for child in others))
        self._say(f"everybody knows port {now.amqp_port}")

    async def _know_vms(self) -> None:
        """Keep in mind which VMs there are: they are to be ended also when the directory that says so is gone. Those of
        the look before are kept too, since a directory may be just about to go."""
        before: set[Path] = set()
        while True:
            found = await asyncio.to_thread(registered_vms, self._layout)
            if self._layout.host.exists():
                self._vms, before = found | before, found
            await asyncio.sleep(_NAMES_S)

    async def _take_down(self, ground: Ground) -> None:
        """End everything, in order, whatever has been started, and whatever fails on the way."""
        self._say("stopping")
        keys = self._children.pop(KEY_MANAGER, None)
        if (agent := self._children.pop(HOST_AGENT, None)) is not None:
            await self._try(agent.stop())
            await self._end_vms(ground)
        await asyncio.gather(*(self._try(child.stop()) for child in self._children.values()))
        if keys is not None:
            await self._try(keys.stop())
        await self._try(self._broker.stop(_LOST_PATIENCE_S if ground.lost() else STOP_TIMEOUT_S))
        self._layout.supervisor.unlink(missing_ok=True)
        self._say("stopped")

    async def _end_vms(self, ground: Ground) -> None:
        """By their driver; by their marks where its directory is gone, wholly or in part."""
        if not ground.lost():
            await self._try(asyncio.to_thread(power_off_all, self._layout, self._say))
        await self._try(asyncio.to_thread(end_marked, self._vms))

    async def _try(self, step: Awaitable[None]) -> None:
        """Do one step of the way down. What fails is told, and keeps nothing else running."""
        try:
            await step
        except CommandFailed as error:
            self._say(f"{error.message}; {error.next_step}")
        except (OSError, VolcloudError, BrokerError) as error:
            self._say(f"on the way down: {error}")


async def hold_until_ended(plan: Plan, say: Say, on_ready: Callable[[], None], *, follows_starter: bool) -> None:
    """Hold a system until something from outside ends it (see ``interruption``). Raises as ``Supervisor.hold``."""
    plan.layout.make()
    work = asyncio.ensure_future(Supervisor(plan, say).hold(on_ready))
    async with ended_from_outside(work, plan.layout.root, say, follows_starter=follows_starter) as interruption:
        try:
            await work
        except asyncio.CancelledError:
            if not interruption.reason:
                raise


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Keep a second supervisor out of a data directory. Raises CommandFailed."""
    with (layout.run / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise held_up(layout) from error
        yield


def held_up(layout: Layout) -> CommandFailed:
    """Say that a data directory has its supervisor already."""
    holder = live_supervisor(layout)
    who = f"process {holder.record.pid}" if holder else "another process"
    return CommandFailed(
        f"{layout.root} is held up by {who}", "see it with `volcloud status`, end it with `volcloud down`"
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the error that says most: ours before others."""
    leaves = list(_leaves(errors))
    ours = [error for error in leaves if isinstance(error, VolcloudError | BrokerError)]
    return (ours or leaves)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
