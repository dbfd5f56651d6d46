"""Which connections are out of date: an agent that comes back means that its earlier connection is dead.

The broker finds that out only after missed heartbeats, and until then a single active consumer keeps the agent deaf. An
agent is told apart by its user and by what it calls its connection. Pure: events go in, names to close come out.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.management import ConnectionInfo
from broker.routes import kind_of

#: Kinds whose queues have a single active consumer, and whose agents keep one connection of a name.
_KINDS = frozenset({"host", "vm"})


class Sessions:
    """The connections that are open, as far as is known."""

    def __init__(self) -> None:
        self._open: dict[str, ConnectionInfo] = {}

    def opened(self, info: ConnectionInfo) -> list[str]:
        """Note a new connection; give the names of those that it replaces."""
        self._open[info.name] = info
        if kind_of(info.user) not in _KINDS:
            return []
        return [
            one.name
            for one in sorted(self._open.values())
            if (one.user, one.label) == (info.user, info.label) and one < info
        ]

    def of(self, user: str) -> list[str]:
        """Name the open connections of a user, as far as they are known."""
        return [one.name for one in self._open.values() if one.user == user]

    def is_open(self, name: str) -> bool:
        """Whether a connection is still there, as far as is known."""
        return name in self._open

    def closed(self, name: str) -> None:
        """Note that a connection is gone. Idempotent."""
        self._open.pop(name, None)

    def listed(self, infos: Iterable[ConnectionInfo]) -> list[str]:
        """Compare with the broker's own list, for what was missed; give the names of those replaced by others in it."""
        before, self._open = self._open, {}
        replaced = [name for info in sorted(infos) for name in self.opened(info)]
        newest = max((info.connected_at for info in self._open.values()), default=0)
        # The list is some seconds old: what was opened since stays known.
        self._open |= {name: info for name, info in before.items() if info.connected_at > newest}
        return list(dict.fromkeys(replaced))
