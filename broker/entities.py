"""The topology on a broker: kombu entities rendered from the table, declared, and compared with what is there.

Alone imports kombu, which is the centre's; agents declare nothing. Calls block.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import msgspec
from amqp import sasl
from amqp import transport as amqp_transport
from kombu import connection as kombu_connection
from kombu import entity as kombu_entity
from kombu.transport import pyamqp

from broker.address import AdminAddress
from broker.errors import BrokerError, ManagementError, Untrusted
from broker.management import Management, QueueInfo
from broker.peer import require_owner
from broker.routes import UP
from broker.tls import context_of, explain, name_at
from broker.topology import Binding, ExchangeSpec, Profile, QueueSpec, centre_queues, exchanges, owner_of
from schemas.endpoints import Endpoint, Tls

# kombu is half annotated: these are its names as far as a type checker is concerned.
_Connection: Any = kombu_connection.Connection
_Exchange: Any = kombu_entity.Exchange
_Queue: Any = kombu_entity.Queue
_binding: Any = kombu_entity.binding
_Plain: Any = sasl.PLAIN
_KombuTransport: Any = pyamqp.Transport
_AmqpConnection: Any = pyamqp.Connection
_SSLTransport: Any = amqp_transport.SSLTransport
_TcpTransport: Any = amqp_transport.TCPTransport

#: kombu's connection. Belongs to the thread that uses it.
Declarer = Any

#: How long a broker may say nothing, seconds.
PATIENCE_S = 20.0
#: AMQP's word for "exists with other arguments".
_PRECONDITION_FAILED = 406


class Difference(msgspec.Struct, frozen=True):
    """Something on the broker that is not as the table says."""

    entity: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.entity}: expected {self.expected}, found {self.found}"


def render_exchange(spec: ExchangeSpec) -> Any:
    """Render an exchange for kombu."""
    return _Exchange(spec.name, type=spec.type, durable=True)


def render_queue(spec: QueueSpec) -> Any:
    """Render a queue with its bindings for kombu."""
    by_name = {one.name: render_exchange(one) for one in exchanges()}
    bindings = [_binding(by_name[one.exchange], routing_key=one.key) for one in spec.bindings]
    return _Queue(spec.name, durable=True, queue_arguments=spec.arguments, bindings=bindings)


class _PlainForOwner(_Plain):  # type: ignore[misc]  # py-amqp exports no types for it
    """The login by user and password, but that the password goes to the broker's owner only."""

    def __init__(self, user: str, password: str, owner: int) -> None:
        super().__init__(user, password)
        self._owner = owner

    def start(self, connection: Any) -> Any:
        """Answer the broker's greeting. Raises Stranger."""
        require_owner(connection.transport.sock, self._owner)
        return super().start(connection)


class _TlsTransport(_SSLTransport):  # type: ignore[misc]
    """py-amqp's socket with TLS, by our context: its own takes no authorities as text."""

    def _wrap_socket(self, sock: Any, tls: Tls) -> Any:
        endpoint = Endpoint(self.host, int(self.port))
        try:
            return context_of(tls).wrap_socket(sock, server_hostname=name_at(tls, endpoint))
        except ssl.SSLError as error:
            raise Untrusted(f"{endpoint}: {explain(error, tls)}") from error


class _WireConnection(_AmqpConnection):  # type: ignore[misc]
    def Transport(  # noqa: N802  py-amqp's name
        self,
        host: str,
        connect_timeout: float,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        socket_settings: Any = None,
    ) -> Any:
        """Make its socket."""
        made = _TlsTransport if isinstance(ssl, dict) else _TcpTransport
        more = {"ssl": ssl} if isinstance(ssl, dict) else {}
        silence = {"read_timeout": read_timeout, "write_timeout": write_timeout}
        return made(host, connect_timeout=connect_timeout, socket_settings=socket_settings, **silence, **more)


class _WireTransport(_KombuTransport):  # type: ignore[misc]
    Connection = _WireConnection


def administrator(address: AdminAddress, *, patience_s: float = PATIENCE_S) -> Declarer:
    """Connect with kombu to the first endpoint that answers, for declaring.

    A broker that says nothing for ``patience_s`` is an OSError; connecting is tried twice. Raises Untrusted, or
    BrokerError when none answers.
    """
    errors: list[str] = []
    for endpoint in address.endpoints:
        connection = _made(address, endpoint, patience_s)
        try:
            connection.connect()
        except (*connection.connection_errors, *connection.channel_errors, OSError) as error:
            errors.append(f"{endpoint}: {error}")
        else:
            return connection
    raise BrokerError(f"no broker answers the administrator: {'; '.join(errors)}")


def _made(address: AdminAddress, endpoint: Endpoint, patience_s: float) -> Declarer:
    silence = {"read_timeout": patience_s, "write_timeout": patience_s}
    return _Connection(
        hostname=endpoint.host,
        port=endpoint.port,
        userid=address.user,
        password=address.password,
        virtual_host=address.vhost,
        connect_timeout=patience_s / 2,
        transport=_WireTransport,
        ssl={"tls": address.tls} if address.tls else False,
        transport_options={"authentication": _PlainForOwner(address.user, address.password, address.owner)} | silence,
    )


def declare(connection: Declarer, profile: Profile) -> None:
    """Make every exchange and every queue of the centre exist. Idempotent.

    Raises ManagementError naming a queue that exists otherwise; what came before it in the table exists then.
    """
    with _channel(connection) as channel:
        for exchange in exchanges():
            _declare_one(connection, render_exchange(exchange)(channel))
    declare_queues(connection, centre_queues(profile))


def declare_queues(connection: Declarer, specs: Iterable[QueueSpec]) -> None:
    """Make queues and their bindings exist; the exchanges do. Idempotent. Raises ManagementError like ``declare``."""
    with _channel(connection) as channel:
        for spec in specs:
            _declare_one(connection, render_queue(spec)(channel))


def _channel(connection: Declarer) -> Any:
    """Open a channel, and the connection before it if need be. Raises BrokerError."""
    try:
        return connection.channel()
    except (*connection.connection_errors, *connection.channel_errors) as error:
        raise BrokerError(f"{connection.as_uri()}: no broker answers the administrator: {error}") from error


def _declare_one(connection: Declarer, entity: Any) -> None:
    try:
        entity.declare()
    except connection.channel_errors as error:
        if getattr(error, "reply_code", 0) != _PRECONDITION_FAILED:
            raise BrokerError(f"{entity.name} could not be declared: {error}") from error
        raise ManagementError(
            f"{entity.name} exists with other arguments ({error.reply_text}): see `volcloud broker check`, empty it, "
            "delete it and declare again",
            _PRECONDITION_FAILED,
        ) from error
    except connection.connection_errors as error:
        raise BrokerError(f"{entity.name} could not be declared: {error}") from error


def check(management: Management, expected: Iterable[QueueSpec]) -> list[Difference]:
    """Compare the broker with the table; an empty list means that it is as it should be.

    ``expected`` are the centre's queues and those of the principals that exist. Queues that nobody expects are
    differences where they receive what volunteers write, or are those of a principal that does not exist. Raises
    ManagementError when the broker cannot be asked.
    """
    specs = {spec.name: spec for spec in expected}
    queues = {info.name: info for info in management.topology.queues()}
    bound: dict[str, set[Binding]] = {}
    for source, queue, key in management.topology.bindings():
        bound.setdefault(queue, set()).add(Binding(source, key))
    found = _exchange_differences(management)
    for spec in specs.values():
        found += _queue_differences(spec, queues.get(spec.name), bound.get(spec.name, set()))
    found += [
        Difference(f"principal {name}", "may connect", "cut off for a while") for name in management.users.shut_out()
    ]
    return found + _strangers(bound, set(specs)) + _ownerless(queues, set(specs))


def _exchange_differences(management: Management) -> list[Difference]:
    types = management.topology.exchanges()
    return [
        Difference(f"exchange {spec.name}", f"durable {spec.type}", types.get(spec.name, "nothing"))
        for spec in exchanges()
        if types.get(spec.name) != f"durable {spec.type}"
    ]


def _queue_differences(spec: QueueSpec, info: QueueInfo | None, bound: set[Binding]) -> list[Difference]:
    entity = f"queue {spec.name}"
    if info is None:
        return [Difference(entity, f"a {spec.type} queue", "nothing")]
    found = []
    if not info.durable:
        found.append(Difference(entity, "durable", "transient"))
    wanted = spec.arguments
    for argument in sorted(wanted.keys() | info.arguments.keys()):
        if wanted.get(argument) != info.arguments.get(argument):
            pair = (f"{argument} = {one.get(argument)!r}" for one in (wanted, info.arguments))
            found.append(Difference(entity, *pair))
    expected = set(spec.bindings)
    found += [Difference(entity, f"binding {one.exchange} {one.key}", "none") for one in sorted(expected - bound)]
    found += [Difference(entity, "no binding", f"{one.exchange} {one.key}") for one in sorted(bound - expected)]
    return found


def _strangers(bound: dict[str, set[Binding]], known: set[str]) -> list[Difference]:
    """Name queues bound to ``vc.up`` that have no business there: 3.10 lets a CC header reach them."""
    return [
        Difference(f"queue {queue}", "no binding", f"{one.exchange} {one.key}")
        for queue, bindings in sorted(bound.items())
        for one in sorted(bindings)
        if queue not in known and one.exchange == UP and not queue.startswith("vc.replies.")
    ]


def _ownerless(queues: Iterable[str], known: set[str]) -> list[Difference]:
    """Name queues that somebody's end has left behind."""
    owners = [(queue, owner_of(queue)) for queue in sorted(queues) if queue not in known]
    return [Difference(f"queue {queue}", "nothing", f"no {owner.name}") for queue, owner in owners if owner is not None]
