"""The broker's live connections, whoever opened them."""

from __future__ import annotations

import msgspec

from broker.management.api import Api, quoted

#: So much is kept of what a client calls its connection, characters.
MAX_LABEL = 200


class ConnectionInfo(msgspec.Struct, frozen=True, order=True):
    """A live connection; sorted by when it was opened."""

    connected_at: int
    name: str
    user: str
    #: What the client calls itself; empty where it does not.
    label: str


class _RawConnection(msgspec.Struct, frozen=True):
    name: str
    user: str = ""
    connected_at: int = 0
    user_provided_name: str = ""


class Connections:
    """See the module."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def all(self) -> list[ConnectionInfo]:
        """Describe the live connections, oldest first; 3.10 knows one only some 5 s after it was opened."""
        columns = "name,user,connected_at,user_provided_name"
        found = self._api.get(f"vhosts/{self._api.vhost}/connections?columns={columns}", list[_RawConnection])
        return sorted(
            ConnectionInfo(one.connected_at, one.name, one.user, one.user_provided_name[:MAX_LABEL]) for one in found
        )

    def close(self, name: str, reason: str) -> bool:
        """Close a connection; its client is told the reason. False for one that is not known: gone, or too young."""
        return self._api.delete(f"connections/{quoted(name)}", reason=reason)
