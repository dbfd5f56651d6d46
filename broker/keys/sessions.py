"""Which connections are out of date: an agent that comes back means that its earlier connection is dead.

The broker finds that out only after missed heartbeats, and until then a single active consumer keeps the agent deaf. An
agent is told apart by its user and by what it calls its connection. Pure: events go in, names to close come out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from broker.management import ConnectionInfo
from schemas.ids import Kind, kind_of

#: Kinds whose queues have a single active consumer, and whose agents keep one connection of a name.
_KINDS = frozenset({Kind.HOST, Kind.VM})


class Sessions:
    """The connections that are open, as far as is known. What is asked of one user costs nothing for the others."""

    def __init__(self) -> None:
        self._open: dict[str, ConnectionInfo] = {}
        self._of: defaultdict[str, dict[str, ConnectionInfo]] = defaultdict(dict)

    def opened(self, info: ConnectionInfo) -> list[str]:
        """Note a new connection; give the names of those that it replaces."""
        self._note(info)
        if kind_of(info.user) not in _KINDS:
            return []
        return [one.name for one in sorted(self._of[info.user].values()) if one.label == info.label and one < info]

    def of(self, user: str) -> list[str]:
        """Name the open connections of a user, as far as they are known."""
        return list(self._of.get(user, ()))

    def is_open(self, name: str) -> bool:
        """Whether a connection is still there, as far as is known."""
        return name in self._open

    def closed(self, name: str) -> None:
        """Note that a connection is gone. Idempotent."""
        info = self._open.pop(name, None)
        if info is None:
            return
        self._of[info.user].pop(name, None)
        if not self._of[info.user]:
            del self._of[info.user]

    def listed(self, infos: Iterable[ConnectionInfo]) -> list[str]:
        """Compare with the broker's own list, for what was missed; give the names of those replaced by others in it."""
        before, self._open = self._open, {}
        self._of.clear()
        replaced = [name for info in sorted(infos) for name in self.opened(info)]
        newest = max((info.connected_at for info in self._open.values()), default=0)
        # The list is some seconds old: what was opened since stays known.
        for info in before.values():
            if info.connected_at > newest:
                self._note(info)
        return list(dict.fromkeys(replaced))

    def _note(self, info: ConnectionInfo) -> None:
        self.closed(info.name)
        self._open[info.name] = info
        self._of[info.user][info.name] = info
