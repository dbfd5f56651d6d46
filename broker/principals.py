"""Who may do what on the broker: each kind of principal, its name, its rights, its limits. Pure.

Every right is a regular expression that the broker searches for, so each is anchored and every name in it escaped. A
user without a topic permission on a topic exchange may use every key of it: so there is one for each, even if empty.
"""

from __future__ import annotations

import re

import msgspec

from broker.routes import CALLS, DOWN, UP
from schemas.ids import PRINCIPAL_PATTERN, Kind

#: Topic exchange of RabbitMQ's event plugin; the key manager learns from it who connected.
EVENTS = "amq.rabbitmq.event"
#: Every topic exchange that any principal's write or read pattern matches.
TOPIC_EXCHANGES = (UP, DOWN, CALLS, EVENTS)
#: Nothing.
NONE = "^$"

#: Queues of the centre that any adapter reads; its own chunks and control come on top.
_CENTRE_QUEUES = r"vc\.(submissions|requests|beats|completions|offers|inventory|asks|reads|calls|rejected)"
#: The random end of a reply queue and of the key that leads to it: no dash, so ``<console>-<random>`` has one reading.
_RANDOM = "[a-z0-9]{1,32}"
_ID = "[a-z0-9-]+"


class Principal(msgspec.Struct, frozen=True, order=True):
    """A broker user."""

    kind: Kind
    name: str

    @property
    def id(self) -> str:
        """The name without its kind; empty for the key manager."""
        return self.name.partition("-")[2]

    @property
    def takes_files(self) -> bool:
        """A storage adapter: ``adapter-store-…``; it alone has queues for chunks."""
        return self.kind is Kind.ADAPTER and self.id.partition("-")[0] == "store"


class TopicPermission(msgspec.Struct, frozen=True):
    """Keys that may be published to, and bound from, one topic exchange."""

    write: str = NONE
    read: str = NONE


class Permissions(msgspec.Struct, frozen=True):
    """Patterns of the resources that a principal may configure, write and read, and of keys by topic exchange."""

    configure: str
    write: str
    read: str
    topic: dict[str, TopicPermission]


class ConnectionLimits(msgspec.Struct, frozen=True):
    """What the broker lets one principal hold open."""

    max_connections: int
    #: Of all its connections together.
    max_channels: int


#: Agents have one connection, and one more while they reconnect; a storage adapter moves files by several. A person has
#: as many consoles as a script starts at once, a site feeds from several machines.
_CONNECTIONS = {Kind.CONSOLE: 64, Kind.SITE: 16, Kind.ADAPTER: 8}
_USUAL_CONNECTIONS = 4
#: Channels for each: one to publish, one for each queue.
_CHANNELS_EACH = 4


def limits(principal: Principal) -> ConnectionLimits:
    """Give what the broker lets this principal hold open."""
    most = _CONNECTIONS.get(principal.kind, _USUAL_CONNECTIONS)
    return ConnectionLimits(max_connections=most, max_channels=most * _CHANNELS_EACH)


def parse_principal(name: str) -> Principal:
    """Read a principal's name. Raises ValueError for what is none, whatever the characters."""
    if not re.fullmatch(PRINCIPAL_PATTERN, name):
        kinds = ", ".join(kind for kind in Kind if kind is not Kind.KEYS)
        raise ValueError(
            f"principal = {name!r}: must be <kind>-<id> with kind one of {kinds} and an id of 1 to 63 characters "
            "(a host's 52) a-z, 0-9 and inner dashes, or the word keys"
        )
    return Principal(Kind(name.partition("-")[0]), name)


def permissions(principal: Principal) -> Permissions:
    """Give a principal's rights; a topic permission for every topic exchange is among them."""
    configure, write, read, topic = _RIGHTS[principal.kind](principal)
    complete = {exchange: topic.get(exchange, TopicPermission()) for exchange in TOPIC_EXCHANGES}
    return Permissions(configure=configure, write=write, read=read, topic=complete)


_Rights = tuple[str, str, str, dict[str, TopicPermission]]


def _vm(who: Principal) -> _Rights:
    own = rf"^vm\.{re.escape(who.id)}(\.files)?$"
    return NONE, r"^vc\.up$", own, {UP: TopicPermission(write=rf"^{re.escape(who.name)}\.")}


def _host(who: Principal) -> _Rights:
    """A host speaks to its VMs by the local road and not here: whoever may write one key of ``vc.down`` may copy it to
    all others, since RabbitMQ checks no key in CC and BCC."""
    own = rf"^host\.{re.escape(who.id)}(\.files)?$"
    return NONE, r"^vc\.up$", own, {UP: TopicPermission(write=rf"^{re.escape(who.name)}\.")}


def _replies(who: Principal) -> str:
    """A reply queue is its reader's own, exclusive, and bound by himself to what is addressed to him."""
    return rf"vc\.replies\.{re.escape(who.name)}\.{_RANDOM}"


def _addressed_to(who: Principal) -> str:
    return rf"^\*\.reply\.{re.escape(who.name)}-{_RANDOM}$"


def _site(who: Principal) -> _Rights:
    own = rf"^site\.{re.escape(who.id)}$"
    return NONE, r"^vc\.up$", own, {UP: TopicPermission(write=rf"^{re.escape(who.name)}\.(submit|ask|read)$")}


def _adapter(who: Principal) -> _Rights:
    """Adapters answer agents and sites on ``vc.down``, consoles on ``vc.up``, and move what they cannot read away.

    Among the beats they put marks of their own, which tell how far the beats have been read. The key manager hears from
    them whom to cut off, by a road that no stranger can fill.
    """
    own = rf"|vc\.(chunks|control)\.{re.escape(who.name)}" if who.takes_files else ""
    topic = {
        UP: TopicPermission(write=rf"^{re.escape(who.name)}\.(reply\..+|beat)$"),
        CALLS: TopicPermission(write=rf"^{re.escape(who.name)}\.cut$"),
        DOWN: TopicPermission(write=rf"^(host|vm|site)\.{_ID}(\.files)?$"),
    }
    return NONE, r"^vc\.(up|down|dead|calls)$", f"^({_CENTRE_QUEUES}{own})$", topic


def _console(who: Principal) -> _Rights:
    name, replies = re.escape(who.name), _replies(who)
    topic = {
        UP: TopicPermission(read=_addressed_to(who)),
        DOWN: TopicPermission(write=rf"^(host|vm)\.{_ID}(\.files)?$"),
        CALLS: TopicPermission(write=rf"^{name}\."),
    }
    return f"^{replies}$", rf"^({replies}|vc\.(down|calls))$", rf"^({replies}|vc\.up)$", topic


def _once(who: Principal) -> _Rights:
    """Reading is by direct reply-to, which needs no right."""
    return NONE, r"^vc\.up$", NONE, {UP: TopicPermission(write=rf"^{re.escape(who.name)}\.enrol$")}


def _keys(_: Principal) -> _Rights:
    """The only one to write the default exchange: direct reply-to answers to one-time logins go there."""
    replies = rf"vc\.replies\.keys\.{_RANDOM}"
    topic = {
        UP: TopicPermission(write=r"^keys\.reply\."),
        DOWN: TopicPermission(write=rf"^(host|vm)\.{_ID}$"),
        EVENTS: TopicPermission(read=r"^connection\.(\*|created|closed)$"),
    }
    write = rf"^({replies}|amq\.default|vc\.(up|down|dead))$"
    return f"^{replies}$", write, rf"^({replies}|vc\.(enrol|cuts)|amq\.rabbitmq\.event)$", topic


_RIGHTS = {
    Kind.HOST: _host,
    Kind.VM: _vm,
    Kind.SITE: _site,
    Kind.ADAPTER: _adapter,
    Kind.CONSOLE: _console,
    Kind.ONCE: _once,
    Kind.KEYS: _keys,
}
