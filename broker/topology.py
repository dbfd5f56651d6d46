"""Every exchange and queue of a deployment, as one table of frozen values; ``broker.entities`` makes them exist.

Only durable queues, every one bounded in bytes, so that RabbitMQ 3.10 and 4.x take it alike. One kind of message from
agents is bound to exactly one queue that rejects, since a topic publish is refused when any bound queue is full.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from broker.principals import Principal, parse_principal
from broker.routes import CALLS, DEAD, DOWN, REJECTED, UP, down, down_files, queue_of
from schemas.ids import Kind

MIB = 1 << 20
#: Times that a message may be delivered without being acknowledged, as RabbitMQ 4 has it: what takes its reader down
#: does so for half a minute. Explicit, since 3.10 has no limit by itself.
DELIVERY_LIMIT = 20
#: The same for what is only looked at, and given back each time: never reached.
LOOKED_AT_LIMIT = 1_000_000_000


class Profile(StrEnum):
    """Where the broker runs: on one machine, or as a cluster where a classic queue is gone with its node."""

    SINGLE = "single"
    CLUSTER = "cluster"


class Overflow(StrEnum):
    """What a full queue does: refuse the publisher, which waits, or forget its oldest message."""

    REJECT = "reject-publish"
    DROP = "drop-head"


class ExchangeSpec(msgspec.Struct, frozen=True):
    """A durable exchange."""

    name: str
    type: str


class Binding(msgspec.Struct, frozen=True, order=True):
    """Messages of ``exchange`` whose key matches ``key``."""

    exchange: str
    key: str


class QueueSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable queue."""

    name: str
    type: str
    max_bytes: int
    overflow: Overflow
    bindings: tuple[Binding, ...]
    #: The exchange to which goes what is rejected, or was delivered too often. Never with drop-head: floods would too.
    dead_letters: str = ""
    delivery_limit: int = DELIVERY_LIMIT
    #: One consumer at a time, the others wait: order is kept, and a copied agent does not share the stream.
    single_active: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The queue's AMQP arguments."""
        arguments: dict[str, Any] = {
            "x-queue-type": self.type,
            "x-max-length-bytes": self.max_bytes,
            "x-overflow": self.overflow.value,
        }
        if self.type == "quorum":
            arguments["x-delivery-limit"] = self.delivery_limit
        if self.dead_letters:
            arguments["x-dead-letter-exchange"] = self.dead_letters
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        return arguments


_EXCHANGES = (
    ExchangeSpec(UP, "topic"),
    ExchangeSpec(DOWN, "topic"),
    ExchangeSpec(CALLS, "topic"),
    ExchangeSpec(DEAD, "fanout"),
    ExchangeSpec(REJECTED, "fanout"),
)


def exchanges() -> tuple[ExchangeSpec, ...]:
    """Give every exchange."""
    return _EXCHANGES


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """One queue of the centre: the kind that leads to it from agents and sites, and the one from consoles."""

    queue: str
    max_mib: int
    from_agents: str
    from_consoles: str = ""
    #: Losing its content with its node is harmless, and its messages are many or large.
    fleeting: bool = False


_CENTRE = (
    _Row(queue="vc.submissions", max_mib=64, from_agents="submit", from_consoles="submit"),
    _Row(queue="vc.requests", max_mib=16, from_agents="request"),
    _Row(queue="vc.beats", max_mib=16, from_agents="beat"),
    _Row(queue="vc.completions", max_mib=128, from_agents="completion"),
    _Row(queue="vc.offers", max_mib=16, from_agents="offer", from_consoles="offer"),
    _Row(queue="vc.inventory", max_mib=32, from_agents="inventory", fleeting=True),
    # What a site asks after its jobs, and for their outputs.
    _Row(queue="vc.asks", max_mib=8, from_agents="ask"),
    _Row(queue="vc.reads", max_mib=8, from_agents="read"),
    _Row(queue="vc.enrol", max_mib=8, from_agents="enrol", from_consoles="keys"),
)


def centre_queues(profile: Profile) -> tuple[QueueSpec, ...]:
    """Give the queues that exist whoever else does."""
    return (*(_centre_queue(row) for row in _CENTRE), *_special_queues())


def _centre_queue(row: _Row) -> QueueSpec:
    """What fleets by is dropped at the head and never dead-lettered: it decides nothing."""
    bindings = [Binding(UP, f"*.{row.from_agents}")]
    if row.from_consoles:
        bindings.append(Binding(CALLS, f"*.{row.from_consoles}"))
    return QueueSpec(
        name=row.queue,
        type="classic" if row.fleeting else "quorum",
        max_bytes=row.max_mib * MIB,
        overflow=Overflow.DROP if row.fleeting else Overflow.REJECT,
        bindings=tuple(bindings),
        dead_letters="" if row.fleeting else DEAD,
    )


def _special_queues() -> tuple[QueueSpec, ...]:
    """Calls come from consoles alone; the dead letters from the centre, and so does whom the key manager shall cut off:
    no stranger fills those. What agents reject, and their word on it, is moved to the dead letters by the centre."""
    cuts = QueueSpec(
        name="vc.cuts",
        type="quorum",
        max_bytes=4 * MIB,
        overflow=Overflow.REJECT,
        bindings=(Binding(CALLS, "*.cut"),),
        dead_letters=DEAD,
    )
    calls = QueueSpec(
        name="vc.calls",
        type="quorum",
        max_bytes=32 * MIB,
        overflow=Overflow.REJECT,
        bindings=(Binding(CALLS, "*.call"),),
        dead_letters=DEAD,
    )
    dead = QueueSpec(
        name="vc.dead",
        type="quorum",
        max_bytes=64 * MIB,
        overflow=Overflow.DROP,
        bindings=(Binding(DEAD, ""),),
        delivery_limit=LOOKED_AT_LIMIT,
    )
    rejected = QueueSpec(
        name="vc.rejected",
        type="quorum",
        max_bytes=16 * MIB,
        overflow=Overflow.DROP,
        bindings=(Binding(REJECTED, ""), Binding(UP, "*.refused")),
    )
    return cuts, calls, dead, rejected


def queues_of(principal: Principal, profile: Profile) -> tuple[QueueSpec, ...]:
    """Give the queues that live and die with a principal; consoles declare theirs themselves, exclusive."""
    if principal.kind in (Kind.HOST, Kind.VM):
        return _agent_queues(principal, profile)
    if principal.kind is Kind.SITE:
        return (_verdicts(principal),)
    return _file_queues(principal) if principal.takes_files else ()


def owner_of(queue: str) -> Principal | None:
    """Give the principal that a queue would live and die with; None for a queue of the centre, or of nobody of ours."""
    kind, _, rest = queue.partition(".")
    if kind == "vc":
        rest = rest.removeprefix("chunks.").removeprefix("control.")
        return _principal(rest) if rest.startswith("adapter-") else None
    return _principal(f"{kind}-{rest.removesuffix('.files')}") if kind in (Kind.HOST, Kind.VM, Kind.SITE) else None


def _principal(name: str) -> Principal | None:
    try:
        return parse_principal(name)
    except ValueError:
        return None


def _agent_queues(who: Principal, profile: Profile) -> tuple[QueueSpec, ...]:
    """Commands, and apart from them chunks, so that a transfer never delays a command."""
    is_many = who.kind is Kind.VM and profile is Profile.SINGLE
    commands = QueueSpec(
        name=queue_of(who.name),
        type="classic" if is_many else "quorum",
        max_bytes=8 * MIB,
        overflow=Overflow.REJECT,
        bindings=(Binding(*down(who.name)),),
        dead_letters=REJECTED,
        single_active=True,
    )
    return commands, _chunks(f"{queue_of(who.name)}.files", 16, Binding(*down_files(who.name)))


def _verdicts(who: Principal) -> QueueSpec:
    return QueueSpec(
        name=queue_of(who.name),
        type="quorum",
        max_bytes=64 * MIB,
        overflow=Overflow.DROP,
        bindings=(Binding(*down(who.name)),),
    )


def _file_queues(who: Principal) -> tuple[QueueSpec, ...]:
    control = QueueSpec(
        name=f"vc.control.{who.name}",
        type="quorum",
        max_bytes=16 * MIB,
        overflow=Overflow.REJECT,
        bindings=_from_both(f"control.{who.name}"),
        dead_letters=DEAD,
    )
    return _chunks(f"vc.chunks.{who.name}", 128, *_from_both(f"chunk.{who.name}")), control


def _chunks(name: str, max_mib: int, *bindings: Binding) -> QueueSpec:
    """Chunks are classic everywhere: large, and sent again when they are lost."""
    return QueueSpec(
        name=name, type="classic", max_bytes=max_mib * MIB, overflow=Overflow.REJECT, bindings=tuple(bindings)
    )


def _from_both(key: str) -> tuple[Binding, ...]:
    return Binding(UP, f"*.{key}"), Binding(CALLS, f"*.{key}")
