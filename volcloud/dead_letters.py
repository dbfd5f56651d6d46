"""The dead letters: what nobody could read or take, why, and whose it was; looked at, sent again, thrown away.

Read as the administrator of a broker. Looking leaves them as they are. Calls block.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from broker.address import Address, AdminAddress
from broker.browsing import PATIENCE_S, browse
from broker.connection import Connection, Delivery
from broker.errors import BrokerError, Unroutable
from broker.inbound import recall, recall_all
from broker.management import Management
from broker.minting import new_password
from broker.routes import CALLS, DEAD, DOWN, UP, queue_of
from schemas.codec import op_of
from schemas.envelope import Refused
from schemas.errors import DecodeError
from schemas.ids import Kind, kind_of, unguessable
from volcloud.errors import CommandFailed, Unreachable

T = TypeVar("T")

#: Letters that one look takes; the queue is bounded, and they are held unacknowledged meanwhile.
MOST_SEEN = 1000
#: Kinds of principal whose headers say where a letter comes from.
_CENTRE = frozenset({Kind.ADAPTER, Kind.KEYS})
#: User tag that lets its bearer set another's user_id.
_IMPERSONATOR = "impersonator"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up. ``id`` names it among the dead letters."""

    id: str
    message_id: str
    reason: str
    #: Who sent it, as the broker vouched for it at first.
    sender: str
    exchange: str
    key: str
    #: The queue that it lay in; empty where the receiver moved it by itself.
    queue: str
    #: The agent that rejected it and has said why; empty where the centre moved it.
    refused_by: str = ""
    op: str
    size: int
    body: bytes


class DeadLetters:
    """The dead letters of one broker. Not from within an event loop."""

    def __init__(self, address: AdminAddress) -> None:
        self._address = address

    def list(self) -> list[DeadLetter]:
        """Give the letters, oldest first; they stay. Raises Unreachable."""
        return [*asyncio.run(self._list())]

    def show(self, letter_id: str) -> DeadLetter:
        """Give one letter; it stays. An unambiguous beginning of its id will do. Raises CommandFailed."""
        return _chosen(self.list(), letter_id)

    def drop(self, letter_id: str) -> DeadLetter:
        """Throw one letter away, and give it. Raises CommandFailed."""
        return asyncio.run(self._drop(letter_id))

    def replay(self, letter_id: str) -> DeadLetter:
        """Send one letter again to where it was sent first, as from its sender, and take it out. Raises CommandFailed
        when no queue takes it; then it stays."""
        letter = self.show(letter_id)
        if not _may_have_sent(letter):
            where = f"{letter.exchange!r} under {letter.key!r}"
            text = f"dead letter {letter.id}: {letter.sender!r} may not send to {where}"
            raise CommandFailed(text, f"`volcloud dead drop {letter.id}`")
        user, password = unguessable(Kind.ONCE), new_password()
        management = Management(self._address, timeout_s=PATIENCE_S)
        try:
            _make_impersonator(management, user, password)
            asyncio.run(_publish(self._address.login(user, password), letter))
        finally:
            management.users.delete(user)
        return self.drop(letter.id)

    async def _list(self) -> Sequence[DeadLetter]:
        async with self._browsing() as taken:
            return [letter for letter, _ in _letters(taken)]

    async def _drop(self, letter_id: str) -> DeadLetter:
        async with self._browsing() as taken:
            letters = {letter.id: (letter, its) for letter, its in _letters(taken)}
            letter, its = letters[_chosen([one for one, _ in letters.values()], letter_id).id]
            for delivery in its:
                delivery.ack()
            return letter

    def _browsing(self) -> AbstractAsyncContextManager[Sequence[Delivery]]:
        login = self._address.login(self._address.user, self._address.password)
        return _reached(browse(login, DEAD, MOST_SEEN))


@asynccontextmanager
async def _reached(work: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    try:
        async with work as given:
            yield given
    except BrokerError as error:
        text = f"the dead letters cannot be reached: {error}"
        raise Unreachable(text, "see with `volcloud status` what runs") from error


def _letters(taken: Sequence[Delivery]) -> list[tuple[DeadLetter, list[Delivery]]]:
    """Read the letters, each with the deliveries that go when it goes: its own, and those of what was said of it.

    An agent's word on what it rejected, where that is not there any more, is a letter of its own.
    """
    read = [(_read(delivery), delivery) for delivery in taken]
    there = {_named(letter) for letter, _ in read}
    words: defaultdict[_Name, list[tuple[Refused, Delivery]]] = defaultdict(list)
    letters = []
    for letter, delivery in read:
        word = _word(letter)
        if word is not None and (name := _Name(word.sha256, word.sender, queue_of(letter.sender))) in there:
            words[name].append((word, delivery))
        else:
            letters.append((letter, delivery))
    return [_joined(letter, delivery, words[_named(letter)]) for letter, delivery in letters]


class _Name(NamedTuple):
    """What an agent's word and the letter that it is about have in common."""

    sha256: str
    sender: str
    queue: str


def _named(letter: DeadLetter) -> _Name:
    return _Name(hashlib.sha256(letter.body).hexdigest(), letter.sender, letter.queue)


def _joined(
    letter: DeadLetter, delivery: Delivery, said: list[tuple[Refused, Delivery]]
) -> tuple[DeadLetter, list[Delivery]]:
    """Give a letter the first word on it that no other letter of the same bytes has."""
    if not said:
        return letter, [delivery]
    word, its = said.pop(0)
    agent = letter.queue.replace(".", "-", 1)
    return msgspec.structs.replace(letter, reason=word.reason, refused_by=agent), [delivery, its]


def _word(letter: DeadLetter) -> Refused | None:
    """Read an agent's word on what it rejected: what came to the dead letters under that key, by the broker's word."""
    if letter.key != _word_key(letter.sender):
        return None
    with suppress(DecodeError):
        message = recall(letter.body)
        return message if isinstance(message, Refused) else None
    return None


def _word_key(agent: str) -> str:
    return f"{agent}.refused"


def _read(delivery: Delivery) -> DeadLetter:
    """Say what a letter is.

    Headers are anybody's words. Ours count where the centre has published the letter: only it may write to the exchange
    ``vc.dead``, and its ``user_id`` is the broker's word. All else the broker has moved, and says from where.
    """
    properties, body = delivery.properties, delivery.body
    headers = properties.headers or {}
    if kind_of(delivery.user_id) in _CENTRE and "x-volcloud-reason" in headers:
        origin = _Origin(*(str(headers.get(f"x-volcloud-{name}") or "") for name in _Origin._fields))
    else:
        origin = _moved(delivery.user_id, headers)
    return DeadLetter(
        id=hashlib.sha256(body + str(properties.message_id).encode()).hexdigest()[:12],
        message_id=properties.message_id or "",
        op=_op(body),
        size=len(body),
        body=body,
        **origin._asdict(),
    )


class _Origin(NamedTuple):
    sender: str
    exchange: str
    key: str
    reason: str
    queue: str


def _moved(user: str, headers: Mapping[str, Any]) -> _Origin:
    """Read the broker's own note on a message that it moved; its newest comes first."""
    deaths = headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    death = newest if isinstance(newest, dict) else {}
    keys = death.get("routing-keys") or [""]
    exchange = str(death.get("exchange") or _usual_exchange(user))
    return _Origin(user, exchange, str(keys[0]), str(death.get("reason") or "unknown"), str(death.get("queue") or ""))


def _op(body: bytes) -> str:
    """Name what it is; of a bundle, what it holds, each once."""
    try:
        return ", ".join(dict.fromkeys(op_of(one) for one in recall_all(body)))
    except DecodeError as error:
        return f"unreadable: {error.reason}"


def _may_have_sent(letter: DeadLetter) -> bool:
    """Say whether its sender has the right to send such a thing: a replay must give nobody more than that."""
    if letter.key == _word_key(letter.sender):
        return False
    if letter.exchange in (UP, CALLS):
        is_its_own = letter.key.partition(".")[0] == letter.sender
        return is_its_own and (letter.exchange == CALLS) == (kind_of(letter.sender) is Kind.CONSOLE)
    return letter.exchange == DOWN and kind_of(letter.sender) in (*_CENTRE, Kind.CONSOLE)


def _usual_exchange(sender: str) -> str:
    return "" if not sender else CALLS if kind_of(sender) is Kind.CONSOLE else UP


def _chosen(letters: list[DeadLetter], beginning: str) -> DeadLetter:
    found = {letter.id: letter for letter in letters if letter.id.startswith(beginning)}
    if len(found) == 1:
        return next(iter(found.values()))
    what = "several dead letters begin with" if found else "no dead letter is"
    raise CommandFailed(f"{what} {beginning!r}", "`volcloud dead list` shows their ids")


def _make_impersonator(management: Management, user: str, password: str) -> None:
    """Make a user that may speak as another, for a moment: the broker refuses a foreign user_id otherwise."""
    management.users.put(user, password, tags=_IMPERSONATOR)
    management.permissions.put(user, configure="^$", write=r"^vc\.(up|down|calls)$", read="^$")


async def _publish(login: Address, letter: DeadLetter) -> None:
    try:
        async with _reached(_opened(login)) as connection:
            await connection.publish(
                letter.exchange, letter.key, letter.body, sender=letter.sender, message_id=letter.message_id or None
            )
    except Unreachable as error:
        if not isinstance(error.__cause__, Unroutable):
            raise
        text = f"no queue takes {letter.key!r} any more: the receiver does not exist"
        raise CommandFailed(text, f"`volcloud dead drop {letter.id}`") from error


@asynccontextmanager
async def _opened(login: Address) -> AsyncIterator[Connection]:
    connection = Connection(login, name="replays a dead letter")
    await connection.open(patience_s=PATIENCE_S)
    try:
        yield connection
    finally:
        await connection.close()
