"""How a system is: processes, broker, queues, hosts, VMs, jobs. Reads, and changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.entities import administrator
from broker.errors import BrokerError
from broker.management import Management
from broker.node import NodeAddress, is_answering, read_node_address
from console.centre.layout import Layout
from console.centre.process_state import read_states
from console.centre.stopping import node_record
from console.client import Client
from console.errors import ConsoleError
from schemas.ledger import HostRow, RegistryRow


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the centre."""

    name: str
    pid: int
    is_alive: bool
    since_ms: int = 0
    restarts: int = 0
    last_end: str = ""


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """One queue and what is in it."""

    name: str
    messages: int
    consumers: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """How a system is. ``trouble`` empty: all of it could be reached."""

    directory: str
    processes: list[ProcessView]
    broker: str = ""
    management: str = ""
    queues: list[QueueView] = []
    hosts: list[HostRow] = []
    vms: list[RegistryRow] = []
    jobs: dict[str, int] = {}
    trouble: str = ""


def look(layout: Layout) -> Overview:
    """Say how the system of a data directory is; what cannot be reached is left out and named in ``trouble``."""
    seen = Overview(directory=str(layout.root), processes=_processes(layout))
    if not any(process.is_alive for process in seen.processes):
        return msgspec.structs.replace(seen, trouble=f"nothing runs in {layout.root}")
    try:
        address = read_node_address(layout.node)
        if not is_answering(address.host, address.amqp_port):
            return msgspec.structs.replace(seen, trouble=f"the broker does not answer on port {address.amqp_port}")
        seen = msgspec.structs.replace(
            seen,
            broker=f"{address.host}:{address.amqp_port}",
            management=f"http://{address.host}:{address.management_port}",
            queues=_queues(address),
        )
        return _with_centre(seen, layout)
    except (BrokerError, ConsoleError) as error:
        return msgspec.structs.replace(seen, trouble=str(error))


def _with_centre(seen: Overview, layout: Layout) -> Overview:
    with Client.connect(layout.root) as client:
        return msgspec.structs.replace(seen, hosts=client.hosts(), vms=client.vms(), jobs=client.jobs(limit=1).counts)


def _processes(layout: Layout) -> list[ProcessView]:
    views = [
        ProcessView(
            name=state.name,
            pid=state.record.pid,
            is_alive=state.is_alive,
            since_ms=state.since_ms,
            restarts=state.restarts,
            last_end=state.last_end,
        )
        for state in read_states(layout.run)
    ]
    node = node_record(layout)
    return [*views, ProcessView(name="broker", pid=node.pid, is_alive=True)] if node else views


def _queues(address: NodeAddress) -> list[QueueView]:
    """Count what is in each queue; consoles' own cannot be asked by another connection."""
    names = sorted(info.name for info in Management(address).queues() if not info.exclusive)
    user, password = address.admin_user, address.admin_password
    with administrator(address.host, address.amqp_port, user, password, address.owner) as connection:
        return [view for name in names if (view := _count(connection, name)) is not None]


def _count(connection: Any, name: str) -> QueueView | None:
    """Ask for one queue; None when it has just been deleted, which closes the channel that asked."""
    try:
        with connection.channel() as channel:
            answer = channel.queue_declare(name, passive=True)
    except connection.channel_errors:
        return None
    return QueueView(name=name, messages=answer.message_count, consumers=answer.consumer_count)
