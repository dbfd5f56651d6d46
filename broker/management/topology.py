"""Exchanges, queues and bindings of the broker's virtual host."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.management.api import Api, quoted

_QUEUE_COLUMNS = "name,durable,exclusive,arguments"


class QueueInfo(msgspec.Struct, frozen=True):
    """A queue as the broker has it."""

    name: str
    durable: bool
    arguments: dict[str, Any]
    exclusive: bool = False


class _Binding(msgspec.Struct, frozen=True):
    source: str
    destination: str
    destination_type: str
    routing_key: str


class _Exchange(msgspec.Struct, frozen=True):
    name: str
    type: str
    durable: bool


class Topology:
    """See the module."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def exchanges(self) -> dict[str, str]:
        """Say of each exchange by name what it is: ``durable topic``."""
        found = self._api.get(f"exchanges/{self._api.vhost}?columns=name,type,durable", list[_Exchange])
        return {one.name: f"{'durable' if one.durable else 'transient'} {one.type}" for one in found}

    def queues(self) -> list[QueueInfo]:
        """Describe every queue."""
        found: list[QueueInfo] = self._api.get(f"queues/{self._api.vhost}?columns={_QUEUE_COLUMNS}", list[QueueInfo])
        return found

    def bindings(self) -> list[tuple[str, str, str]]:
        """Give (exchange, queue, key) of every binding to a queue but the default exchange's."""
        found = self._api.get(f"bindings/{self._api.vhost}", list[_Binding])
        return [
            (one.source, one.destination, one.routing_key)
            for one in found
            if one.source and one.destination_type == "queue"
        ]

    def delete_queue(self, name: str) -> None:
        """Delete a queue with what is in it. Idempotent."""
        self._api.delete(f"queues/{self._api.vhost}/{quoted(name)}")
