"""Users of the broker, and how many connections each may have."""

from __future__ import annotations

import msgspec

from broker.management.api import Api, quoted

#: A user's limit of connections; 0 shuts it out.
MAX_CONNECTIONS = "max-connections"


class _User(msgspec.Struct, frozen=True):
    name: str


class _UserLimits(msgspec.Struct, frozen=True):
    user: str
    value: dict[str, int]


class Users:
    """See the module."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def names(self) -> list[str]:
        """Name every user."""
        return [user.name for user in self._api.get("users?columns=name", list[_User])]

    def exists(self, name: str) -> bool:
        """Whether there is such a user."""
        return self._api.exists(f"users/{quoted(name)}")

    def put(self, name: str, password: str, *, tags: str = "") -> None:
        """Make a user, or give it another password and these tags; live connections stay. Idempotent."""
        self._api.put(f"users/{quoted(name)}", {"password": password, "tags": tags})

    def delete(self, name: str) -> None:
        """Delete a user; the broker closes its connections and forgets its rights. Idempotent."""
        self._api.delete(f"users/{quoted(name)}")

    def put_limit(self, user: str, limit: str, value: int) -> None:
        """Set ``max-connections`` or ``max-channels`` of a user. Idempotent."""
        self._api.put(f"user-limits/{quoted(user)}/{limit}", {"value": value})

    def shut_out(self) -> list[str]:
        """Name the users that may open no connection, whoever has shut them out."""
        return [
            one.user for one in self._api.get("user-limits", list[_UserLimits]) if one.value.get(MAX_CONNECTIONS) == 0
        ]
