"""How a system is: processes, broker, queues, hosts, VMs, jobs, and what is wrong with which part. Changes nothing.

What could not be asked is absent, and never shown as empty.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.entities import administrator
from broker.errors import BrokerError
from broker.management import Management
from broker.node import NodeAddress, read_node_address
from schemas.ledger import HostRow, RegistryRow
from volcloud.centre.health import Trouble, ask_all, since, troubles
from volcloud.centre.layout import Layout
from volcloud.centre.process_state import BROKER, ProcessState, read_states
from volcloud.centre.stopping import node_record
from volcloud.client import Client

#: How long broker and centre may take to tell what there is, seconds.
ANSWER_S = 6.0


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the centre."""

    name: str
    pid: int
    is_alive: bool
    #: running, frozen or gone.
    state: str
    since_ms: int = 0
    restarts: int = 0
    last_end: str = ""


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """One queue and what is in it."""

    name: str
    messages: int
    consumers: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """How a system is. ``troubles`` empty: all of it could be reached. None: it could not be asked."""

    directory: str
    processes: list[ProcessView]
    broker: str = ""
    management: str = ""
    queues: list[QueueView] | None = None
    hosts: list[HostRow] | None = None
    vms: list[RegistryRow] | None = None
    jobs: dict[str, int] | None = None
    troubles: list[Trouble] = []


class _Told:
    """What broker and centre have told so far; filled by threads, a field each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.found: list[Trouble] = []
        self.queues: list[QueueView] | None = None
        self.hosts: list[HostRow] | None = None
        self.vms: list[RegistryRow] | None = None
        self.jobs: dict[str, int] | None = None

    def ask_parts(self) -> str:
        self.found = troubles(self._layout)
        return ""

    def ask_queues(self) -> str:
        self.queues = _queues(read_node_address(self._layout.node))
        return ""

    def ask_centre(self) -> str:
        with Client.connect(self._layout.root) as client:
            self.jobs = client.jobs(limit=1).counts
            self.hosts, self.vms = client.hosts(), client.vms()
        return ""


def look(layout: Layout) -> Overview:
    """Say how the system of a data directory is, within some ten seconds whatever is frozen."""
    seen = Overview(directory=str(layout.root), processes=_processes(layout))
    if not any(process.is_alive for process in seen.processes):
        return msgspec.structs.replace(seen, troubles=troubles(layout))
    told = _Told(layout)
    questions = {"parts": told.ask_parts, "queues": told.ask_queues, "centre": told.ask_centre}
    silent = ask_all(questions, ANSWER_S)
    return msgspec.structs.replace(
        seen,
        **_addresses(layout),
        queues=told.queues,
        hosts=told.hosts,
        vms=told.vms,
        jobs=told.jobs,
        troubles=since(layout, told.found or _consequences(silent)),
    )


def _consequences(silent: dict[str, str]) -> list[Trouble]:
    """Name what did not answer though no part of it is known to be in trouble."""
    names = {"parts": "system", "queues": BROKER, "centre": "centre"}
    mend = "ask again; if it stays so, DIR/log tells more"
    return [Trouble(part=names[one], what=what, mend=mend) for one, what in silent.items() if what]


def _addresses(layout: Layout) -> dict[str, str]:
    try:
        address = read_node_address(layout.node)
    except BrokerError:
        return {}
    return {
        "broker": f"{address.host}:{address.amqp_port}",
        "management": f"http://{address.host}:{address.management_port}",
    }


def _processes(layout: Layout) -> list[ProcessView]:
    states = read_states(layout.run)
    views = [_view(state) for state in states]
    node = node_record(layout)
    if node is not None and all(state.name != BROKER for state in states):
        views.append(ProcessView(name=BROKER, pid=node.pid, is_alive=True, state="running"))
    return views


def _view(state: ProcessState) -> ProcessView:
    word = "gone" if not state.is_alive else "frozen" if state.record.is_stopped() else "running"
    return ProcessView(
        name=state.name,
        pid=state.record.pid,
        is_alive=state.is_alive,
        state=word,
        since_ms=state.since_ms,
        restarts=state.restarts,
        last_end=state.last_end,
    )


def _queues(address: NodeAddress) -> list[QueueView]:
    """Count what is in each queue; consoles' own cannot be asked by another connection."""
    names = sorted(info.name for info in Management(address.administration).topology.queues() if not info.exclusive)
    with administrator(address.administration) as connection:
        return [view for name in names if (view := _count(connection, name)) is not None]


def _count(connection: Any, name: str) -> QueueView | None:
    """Ask for one queue; None when it has just been deleted, which closes the channel that asked."""
    try:
        with connection.channel() as channel:
            answer = channel.queue_declare(name, passive=True)
    except connection.channel_errors:
        return None
    return QueueView(name=name, messages=answer.message_count, consumers=answer.consumer_count)
