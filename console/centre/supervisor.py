"""The process that holds a system up: broker, key manager, adapters, host agent, in that order, and down in the other.

A child that dies is started again; a signal at any time, also while things still start, ends all of it in order.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from broker.backoff import backoff
from broker.errors import BrokerError, NodeError
from broker.node import NodeAddress, PrivateNode
from console.centre.child import Child, daemon_command
from console.centre.guest_image import provide_image
from console.centre.layout import Layout
from console.centre.plan import HOST_AGENT, KEY_MANAGER, Daemon, Plan, daemons, settle_names, write_configurations
from console.centre.process_state import write_state
from console.centre.readiness import wait_credentials, wait_ready
from console.centre.stopping import Say, clean_up, live_supervisor, power_off_all
from console.errors import CommandFailed, ConsoleError

T = TypeVar("T")

#: How often the broker's process is looked after, seconds.
_WATCH_S = 0.5


class Supervisor:
    """See the module. ``hold`` once."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan, self._layout = plan, plan.layout
        self._say = say
        self._node = PrivateNode(self._layout.node)
        self._node_thread = ThreadPoolExecutor(1, thread_name_prefix="broker node")
        self._children: dict[str, Child] = {}
        self._is_settled = False

    async def hold(self, on_ready: Callable[[], None]) -> None:
        """Bring the system up, call ``on_ready``, and hold it until cancelled; then take it down, wholly.

        Raises ConsoleError or BrokerError when it does not come up; then it is down too.
        """
        self._layout.make()
        with _locked(self._layout):
            await asyncio.to_thread(clean_up, self._layout, self._say)
            write_state(self._layout.supervisor, "supervisor", os.getpid())
            try:
                await self._run(on_ready)
            finally:
                await self._take_down()

    async def _run(self, on_ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._bring_up(group)
                self._settle()
                on_ready()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    async def _bring_up(self, group: asyncio.TaskGroup) -> None:
        images = [await provide_image(self._layout, self._say)] if self._plan.hypervisor == "qemu" else []
        names = await asyncio.to_thread(settle_names, self._plan)
        address = await self._start_node()
        group.create_task(self._watch_node(), name="broker node")
        write_configurations(self._plan, names, images)
        processes = daemons(self._plan, names)
        self._say("starting the key manager")
        self._start(group, processes[0])
        await wait_credentials(self._plan, names, address.amqp_port)
        self._say(f"starting {', '.join(process.name for process in processes[1:])}")
        for process in processes[1:]:
            self._start(group, process)
        await wait_ready(self._plan, names, processes, self._say)

    async def _start_node(self) -> NodeAddress:
        """Start the broker; once more if need be, since a port that was free may be taken before the node has it."""
        try:
            return await self._in_node_thread(lambda: self._node.start(self._say))
        except NodeError as error:
            self._say(f"{error}; trying once more")
            return await self._in_node_thread(lambda: self._node.start(self._say))

    def _start(self, group: asyncio.TaskGroup, process: Daemon) -> None:
        command = daemon_command(process.module, self._layout.config(process.name))
        child = self._children[process.name] = Child(self._layout, process.name, command, self._say)
        group.create_task(child.keep_up(), name=process.name)

    def _settle(self) -> None:
        """From here on nothing that dies ends the system: it is started again for ever."""
        self._is_settled = True
        for child in self._children.values():
            child.is_settled = True

    async def _watch_node(self) -> None:
        restarts, waits = 0, backoff(0.2, 10.0)
        while True:
            status = await asyncio.to_thread(self._node.wait, _WATCH_S)
            if status is None and self._node.is_running():
                continue
            restarts += 1
            self._say(f"the broker ended with {status}; starting it again, for the {restarts}. time")
            try:
                await self._in_node_thread(lambda: self._node.start(self._say))
            except NodeError as error:
                if not self._is_settled:
                    raise
                self._say(str(error))
                await asyncio.sleep(next(waits))

    async def _take_down(self) -> None:
        """End everything, in order, whatever has been started."""
        self._say("stopping")
        if HOST_AGENT in self._children:
            await self._children.pop(HOST_AGENT).stop()
            await self._end_vms()
        keys = self._children.pop(KEY_MANAGER, None)
        await asyncio.gather(*(child.stop() for child in self._children.values()))
        if keys is not None:
            await keys.stop()
        await self._in_node_thread(self._node.stop)
        self._node_thread.shutdown()
        self._layout.supervisor.unlink(missing_ok=True)
        self._say("stopped")

    async def _end_vms(self) -> None:
        try:
            await asyncio.to_thread(power_off_all, self._layout, self._say)
        except CommandFailed as error:
            self._say(f"{error.message}; {error.next_step}")

    async def _in_node_thread(self, call: Callable[[], T]) -> T:
        """Run a call of the node's in its thread; calls come one after the other, also when the waiter is gone."""
        return await asyncio.get_running_loop().run_in_executor(self._node_thread, call)


async def hold_until_signal(plan: Plan, say: Say, on_ready: Callable[[], None]) -> None:
    """Hold a system until SIGINT, SIGTERM or SIGHUP; later ones change nothing. Raises as ``Supervisor.hold``."""
    work = asyncio.ensure_future(Supervisor(plan, say).hold(on_ready))
    stopping: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not stopping:
            work.cancel()
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await work
    except asyncio.CancelledError:
        if not stopping:
            raise


@contextmanager
def _locked(layout: Layout) -> Iterator[None]:
    """Keep a second supervisor out of a data directory. Raises CommandFailed."""
    with (layout.run / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = live_supervisor(layout)
            who = f"process {holder.record.pid}" if holder else "another process"
            text = f"{layout.root} is held up by {who}"
            raise CommandFailed(text, "see it with `volcloud status`, end it with `volcloud down`") from error
        yield


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the error that says most: ours before others."""
    leaves = list(_leaves(errors))
    ours = [error for error in leaves if isinstance(error, ConsoleError | BrokerError)]
    return (ours or leaves)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
