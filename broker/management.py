"""RabbitMQ's management API, typed: the administrator's hand on users, rights, limits, queues and connections.

Only the key manager and an operator at the broker hold a credential for it. Calls block and belong in a thread of
asyncio's pool; an object holds no connection, so any thread may use it. Deleting what is gone succeeds.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from typing import Any
from urllib.parse import quote

import msgspec

from broker.address import AdminAddress
from broker.errors import ManagementError
from broker.peer import vouch
from broker.tls import context_of, name_at, why_ended
from schemas.endpoints import Endpoint, Tls

#: How long one call may take, seconds.
TIMEOUT_S = 20.0
#: So much is kept of what a client calls its connection, characters.
MAX_LABEL = 200
#: A user's limit of connections; 0 shuts it out.
MAX_CONNECTIONS = "max-connections"
_QUEUE_COLUMNS = "name,durable,exclusive,arguments"


class QueueInfo(msgspec.Struct, frozen=True):
    """A queue as the broker has it."""

    name: str
    durable: bool
    arguments: dict[str, Any]
    exclusive: bool = False


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


class _User(msgspec.Struct, frozen=True):
    name: str


class _Node(msgspec.Struct, frozen=True):
    disk_free_alarm: bool = False
    mem_alarm: bool = False
    disk_free: int = 0
    disk_free_limit: int = 0


class _UserLimits(msgspec.Struct, frozen=True):
    user: str
    value: dict[str, int]


class _Binding(msgspec.Struct, frozen=True):
    source: str
    destination: str
    destination_type: str
    routing_key: str


class _Exchange(msgspec.Struct, frozen=True):
    name: str
    type: str
    durable: bool


class Management:
    """One broker's management API, as one administrator, on one virtual host."""

    def __init__(self, address: AdminAddress, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._vhost = quote(address.vhost, safe="")
        login = f"{address.user}:{address.password}".encode()
        self._headers = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}

    def ensure_vhost(self) -> None:
        """Make the virtual host exist, and the administrator free to do anything in it. Idempotent."""
        self._put(f"vhosts/{self._vhost}", {})
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self._put(f"permissions/{self._vhost}/{quote(self._address.user, safe='')}", rights)

    def users(self) -> list[str]:
        """Name every user."""
        return [user.name for user in self._get("users?columns=name", list[_User])]

    def user_exists(self, name: str) -> bool:
        """Whether there is such a user."""
        status, _ = self._ask("GET", f"users/{quote(name, safe='')}", None, allowed={404})
        return status != 404

    def put_user(self, name: str, password: str) -> None:
        """Make a user without any tag, or give it another password; live connections stay. Idempotent."""
        self._put(f"users/{quote(name, safe='')}", {"password": password, "tags": ""})

    def delete_user(self, name: str) -> None:
        """Delete a user; the broker closes its connections and forgets its rights. Idempotent."""
        self._delete(f"users/{quote(name, safe='')}")

    def put_permissions(self, user: str, configure: str, write: str, read: str) -> None:
        """Set what a user may configure, write and read. Idempotent."""
        rights = {"configure": configure, "write": write, "read": read}
        self._put(f"permissions/{self._vhost}/{quote(user, safe='')}", rights)

    def put_topic_permission(self, user: str, exchange: str, write: str, read: str) -> None:
        """Set which keys of a topic exchange a user may write and bind. Idempotent."""
        rights = {"exchange": exchange, "write": write, "read": read}
        self._put(f"topic-permissions/{self._vhost}/{quote(user, safe='')}", rights)

    def put_limit(self, user: str, limit: str, value: int) -> None:
        """Set ``max-connections`` or ``max-channels`` of a user. Idempotent."""
        self._put(f"user-limits/{quote(user, safe='')}/{limit}", {"value": value})

    def alarms(self) -> list[str]:
        """Name the alarms for which the broker takes no messages: it is short of disk, or of memory.

        A node that has just started has no figures yet; the API gives an empty array in their place.
        """
        asked = "nodes?columns=disk_free_alarm,mem_alarm,disk_free,disk_free_limit"
        (found,) = self._get(asked, list[_Node | list[object]])
        node = found if isinstance(found, _Node) else _Node()
        disk = f"only {node.disk_free >> 20} MiB of disk are free, {node.disk_free_limit >> 20} must be"
        return [*([disk] if node.disk_free_alarm else []), *(["its memory is full"] if node.mem_alarm else [])]

    def shut_out(self) -> list[str]:
        """Name the users that may open no connection, whoever has shut them out."""
        return [one.user for one in self._get("user-limits", list[_UserLimits]) if one.value.get(MAX_CONNECTIONS) == 0]

    def exchanges(self) -> dict[str, str]:
        """Say of each exchange by name what it is: ``durable topic``."""
        found = self._get(f"exchanges/{self._vhost}?columns=name,type,durable", list[_Exchange])
        return {one.name: f"{'durable' if one.durable else 'transient'} {one.type}" for one in found}

    def queues(self) -> list[QueueInfo]:
        """Describe every queue."""
        found: list[QueueInfo] = self._get(f"queues/{self._vhost}?columns={_QUEUE_COLUMNS}", list[QueueInfo])
        return found

    def bindings(self) -> list[tuple[str, str, str]]:
        """Give (exchange, queue, key) of every binding to a queue but the default exchange's."""
        found = self._get(f"bindings/{self._vhost}", list[_Binding])
        return [
            (one.source, one.destination, one.routing_key)
            for one in found
            if one.source and one.destination_type == "queue"
        ]

    def delete_queue(self, name: str) -> None:
        """Delete a queue with what is in it. Idempotent."""
        self._delete(f"queues/{self._vhost}/{quote(name, safe='')}")

    def connections(self) -> list[ConnectionInfo]:
        """Describe the live connections, oldest first; 3.10 knows one only some 5 s after it was opened."""
        columns = "name,user,connected_at,user_provided_name"
        found = self._get(f"vhosts/{self._vhost}/connections?columns={columns}", list[_RawConnection])
        return sorted(
            ConnectionInfo(one.connected_at, one.name, one.user, one.user_provided_name[:MAX_LABEL]) for one in found
        )

    def close_connection(self, name: str, reason: str) -> bool:
        """Close a connection; its client is told the reason. False for one that is not known: gone, or too young."""
        path = f"connections/{quote(name, safe='')}"
        status, _ = self._ask("DELETE", path, None, allowed={404}, headers={"X-Reason": reason})
        return status != 404

    def _get(self, path: str, shape: type[Any]) -> Any:
        _, body = self._ask("GET", path, None)
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.MsgspecError as error:
            raise ManagementError(f"GET {path}: an answer of an unknown shape: {error}") from error

    def _put(self, path: str, body: dict[str, Any]) -> None:
        self._ask("PUT", path, msgspec.json.encode(body))

    def _delete(self, path: str) -> None:
        self._ask("DELETE", path, None, allowed={404})

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        allowed: set[int] | frozenset[int] = frozenset(),
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Make one call. Raises ManagementError with the status unless it is a success or ``allowed``."""
        all_headers = self._headers | {"Content-Type": "application/json"} | (headers or {})
        status, text = self._answer(method, path, body, all_headers)
        if status >= 400 and status not in allowed:
            said = text[:200].decode(errors="replace")
            raise ManagementError(f"{method} {path}: HTTP {status}: {said}", status)
        return status, text

    def _answer(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Ask the first endpoint that answers: each call may be made twice. Raises ManagementError when none does."""
        errors: list[str] = []
        for endpoint in self._address.management:
            link = self._link(endpoint)
            try:
                link.connect()
                if self._address.tls is None:  # else its certificate has said who it is
                    vouch(link.sock, self._address.owner)
                link.request(method, f"/api/{path}", body=body, headers=headers)
                answer = link.getresponse()
                return answer.status, answer.read()
            except ssl.SSLError as error:
                errors.append(f"at {endpoint} is not to be trusted: {why_ended(endpoint, self._address.tls, error)}")
            except (OSError, http.client.HTTPException) as error:
                errors.append(f"at {endpoint} does not answer: {why_ended(endpoint, self._address.tls, error)}")
            finally:
                link.close()
        raise ManagementError(f"the broker's management API {'; '.join(errors)}")

    def _link(self, endpoint: Endpoint) -> http.client.HTTPConnection:
        tls = self._address.tls
        if tls is None:
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._timeout_s)
        return _NamedHttps(endpoint, tls, self._timeout_s)


class _NamedHttps(http.client.HTTPSConnection):
    """HTTPS to a host whose certificate may bear another name."""

    def __init__(self, endpoint: Endpoint, tls: Tls, timeout_s: float) -> None:
        self._tls_context, self._name = context_of(tls), name_at(tls, endpoint)
        super().__init__(endpoint.host, endpoint.port, timeout=timeout_s, context=self._tls_context)

    def connect(self) -> None:
        """Connect, and check the other end's certificate. Raises ssl.SSLError, or OSError."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._name)
