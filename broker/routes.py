"""Where a message goes: exchange and routing key for each pair of ends. Pure; the topology declares the same names.

A principal's name is a broker user (``vm-1f3a``); its queue has the same name with a dot for the first dash
(``vm.1f3a``). What agents write starts with their own name, which the broker checks.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.ids import Kind, kind_of

UP, DOWN, CALLS, DEAD = "vc.up", "vc.down", "vc.calls", "vc.dead"
#: Where what an agent rejects goes; the centre moves it to the dead letters, each agent within its share.
REJECTED = "vc.rejected"


class Route(NamedTuple):
    """An exchange and a routing key."""

    exchange: str
    key: str


def queue_of(principal: str) -> str:
    """Name the queue of a host, VM or site."""
    return principal.replace("-", ".", 1)


def down(principal: str) -> Route:
    """To a host's, VM's or site's own queue."""
    return Route(DOWN, queue_of(principal))


def takes_bundles(route: Route) -> bool:
    """Whether who reads there is ours, and takes a bundle's messages apart: a VM. Sites read with what they like."""
    return route.exchange == DOWN and route.key.startswith("vm.") and not route.key.endswith(".files")


def down_files(principal: str) -> Route:
    """To a host's or VM's queue for chunks."""
    return Route(DOWN, f"{queue_of(principal)}.files")


def up(user: str, kind: str, destination: str = "") -> Route:
    """From ``user`` to the centre: consoles have an exchange of their own, all others write ``vc.up``."""
    exchange = CALLS if kind_of(user) is Kind.CONSOLE else UP
    return Route(exchange, ".".join(filter(None, (user, kind, destination))))


def within(user: str, kind: str) -> Route:
    """Among the centre's own: no stranger may write that exchange, nor fill a queue that is bound to it alone."""
    return Route(CALLS, f"{user}.{kind}")


def reply(user: str, to: str, suffix: str) -> Route:
    """From ``user`` back to ``to``: the reply queue of a console, or of a host that named one, else the queue that its
    broker-checked name says."""
    if kind_of(to) is Kind.CONSOLE or (kind_of(to) is Kind.HOST and suffix):
        return Route(UP, f"{user}.reply.{to}-{suffix}")
    return down(to)


def way_back(user: str, to: str, suffix: str) -> Route | None:
    """From an agent back to who called it; None to whom it has none: an adapter, which is answered by what its order
    brings about."""
    route = reply(user, to, suffix)
    return route if route.exchange == UP else None


def reply_queue(caller: str, suffix: str) -> str:
    """Name an exclusive queue of one who calls."""
    return f"vc.replies.{caller}.{suffix}"


def sender_of(routing_key: str, user_id: str) -> str | None:
    """Give the sender's name if the broker vouches for it: ``user_id`` set and the key's first word; else None."""
    return user_id if user_id and routing_key.partition(".")[0] == user_id else None


def payer_of(exchange: str, routing_key: str, user_id: str) -> str:
    """Say at whose cost a message is read; empty where nobody can be named.

    One may leave out the ``user_id``, but on ``vc.up`` the broker lets nobody write under a key that begins with
    another's name, and what is delivered is that key, whatever carbon copies were asked for.
    """
    return user_id or (routing_key.partition(".")[0] if exchange == UP else "")


def file_route(user: str, peer: str, suffix: str, *, is_chunk: bool) -> Route:
    """From one end of a transfer to the other, of whatever kinds the two are."""
    if kind_of(peer) is Kind.ADAPTER:
        return up(user, "chunk" if is_chunk else "control", peer)
    if kind_of(peer) is Kind.CONSOLE:
        return reply(user, peer, suffix)
    return down_files(peer)


def matches(pattern: str, key: str) -> bool:
    """Say whether a key fits a topic pattern: ``*`` stands for one word, ``#`` for any number of them."""
    return _fit(pattern.split("."), key.split("."))


def _fit(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_fit(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _fit(pattern[1:], words[1:])
