"""What users may do on the broker's virtual host."""

from __future__ import annotations

from broker.management.api import Api, quoted


class PermissionsApi:
    """See the module."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def put(self, user: str, configure: str, write: str, read: str) -> None:
        """Set what a user may configure, write and read. Idempotent."""
        rights = {"configure": configure, "write": write, "read": read}
        self._api.put(f"permissions/{self._api.vhost}/{quoted(user)}", rights)

    def put_topic(self, user: str, exchange: str, write: str, read: str) -> None:
        """Set which keys of a topic exchange a user may write and bind. Idempotent."""
        rights = {"exchange": exchange, "write": write, "read": read}
        self._api.put(f"topic-permissions/{self._api.vhost}/{quoted(user)}", rights)
