"""The dead letters: what nobody could read or take, why, and whose it was; looked at, sent again, thrown away.

Read with kombu as the administrator of a data directory's node. Looking takes letters and gives them back unread, so
that they stay in their order. Calls block.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from broker.entities import Declarer, administrator
from broker.management import Management
from broker.minting import new_password
from broker.node import NodeAddress
from broker.routes import CALLS, DEAD, DOWN, UP, kind_of, queue_of
from console.errors import CommandFailed, Unreachable
from schemas.codec import decode, op_of, unbundle
from schemas.envelope import Refused
from schemas.errors import DecodeError
from schemas.ids import unguessable

#: Letters that one look takes; the queue is bounded, and they are held unacknowledged meanwhile.
MOST_SEEN = 1000
#: Kinds of principal whose headers say where a letter comes from.
_CENTRE = frozenset({"adapter", "keys"})
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
    """The dead letters of one broker."""

    def __init__(self, address: NodeAddress) -> None:
        self._address = address

    def list(self) -> list[DeadLetter]:
        """Give the letters, oldest first; they stay. Raises Unreachable."""
        with self._channel() as channel:
            return [letter for letter, _ in _letters(channel)]

    def show(self, letter_id: str) -> DeadLetter:
        """Give one letter; it stays. An unambiguous beginning of its id will do. Raises CommandFailed."""
        return _chosen(self.list(), letter_id)

    def drop(self, letter_id: str) -> DeadLetter:
        """Throw one letter away, and give it. Raises CommandFailed."""
        with self._channel() as channel:
            letters = {letter.id: (letter, tags) for letter, tags in _letters(channel)}
            letter, tags = letters[_chosen([one for one, _ in letters.values()], letter_id).id]
            for tag in tags:
                channel.basic_ack(tag)
            return letter

    def replay(self, letter_id: str) -> DeadLetter:
        """Send one letter again to where it was sent first, as from its sender, and take it out. Raises CommandFailed
        when no queue takes it; then it stays."""
        letter = self.show(letter_id)
        if not _may_have_sent(letter):
            where = f"{letter.exchange!r} under {letter.key!r}"
            text = f"dead letter {letter.id}: {letter.sender!r} may not send to {where}"
            raise CommandFailed(text, f"`volcloud dead drop {letter.id}`")
        node, user, password = self._address, unguessable("once"), new_password()
        lender = _Lender(self._address)
        try:
            lender.lend(user, password)
            with _connected(administrator(node.host, node.amqp_port, user, password, node.owner)) as connection:
                _publish(connection, letter)
        finally:
            lender.delete_user(user)
        return self.drop(letter.id)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Open a channel; what was taken from the queue and not acknowledged goes back when it closes."""
        node = self._address
        login = administrator(node.host, node.amqp_port, node.admin_user, node.admin_password, node.owner)
        with _connected(login) as connection, connection.channel() as channel:
            yield channel


@contextmanager
def _connected(connection: Declarer) -> Iterator[Declarer]:
    try:
        with connection:
            connection.connect()
            yield connection
    except (*connection.connection_errors, *connection.channel_errors) as error:
        text = f"{connection.as_uri()}: the dead letters cannot be reached: {error}"
        raise Unreachable(text, "see with `volcloud status` what runs") from error


def _letters(channel: Any) -> list[tuple[DeadLetter, list[int]]]:
    """Take the letters, each with the delivery tags that go when it goes: its own, and those of what was said of it.

    An agent's word on what it rejected, where that is not there any more, is a letter of its own.
    """
    taken = list(islice(iter(lambda: channel.basic_get(DEAD, no_ack=False), None), MOST_SEEN))
    read = [(_read(message), message.delivery_tag) for message in taken]
    there = {_named(letter) for letter, _ in read}
    words: defaultdict[_Name, list[tuple[Refused, int]]] = defaultdict(list)
    letters = []
    for letter, tag in read:
        word = _word(letter)
        if word is not None and (name := _Name(word.sha256, word.sender, queue_of(letter.sender))) in there:
            words[name].append((word, tag))
        else:
            letters.append((letter, tag))
    return [_joined(letter, tag, words[_named(letter)]) for letter, tag in letters]


class _Name(NamedTuple):
    """What an agent's word and the letter that it is about have in common."""

    sha256: str
    sender: str
    queue: str


def _named(letter: DeadLetter) -> _Name:
    return _Name(hashlib.sha256(letter.body).hexdigest(), letter.sender, letter.queue)


def _joined(letter: DeadLetter, tag: int, said: list[tuple[Refused, int]]) -> tuple[DeadLetter, list[int]]:
    """Give a letter the first word on it that no other letter of the same bytes has."""
    if not said:
        return letter, [tag]
    word, its_tag = said.pop(0)
    agent = letter.queue.replace(".", "-", 1)
    return msgspec.structs.replace(letter, reason=word.reason, refused_by=agent), [tag, its_tag]


def _word(letter: DeadLetter) -> Refused | None:
    """Read an agent's word on what it rejected: what came to the dead letters under that key, by the broker's word."""
    if letter.key != _word_key(letter.sender):
        return None
    with suppress(DecodeError):
        message = decode(letter.body)
        return message if isinstance(message, Refused) else None
    return None


def _word_key(agent: str) -> str:
    return f"{agent}.refused"


def _read(message: Any) -> DeadLetter:
    """Say what a letter is.

    Headers are anybody's words. Ours count where the centre has published the letter: only it may write to the exchange
    ``vc.dead``, and its ``user_id`` is the broker's word. What agents publish under ``refused`` is theirs as it stands.
    All else the broker has moved, and says from where.
    """
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    properties = message.properties
    user = str(properties.get("user_id") or "")
    headers = properties.get("application_headers") or {}
    if message.delivery_info.get("exchange") == UP:
        origin = _Origin(user, UP, str(message.delivery_info.get("routing_key")), "refused by an agent", "")
    elif kind_of(user) in _CENTRE and "x-volcloud-reason" in headers:
        sender, exchange, key, reason = (str(headers.get(f"x-volcloud-{name}") or "") for name in _HEADERS)
        origin = _Origin(sender, exchange, key, reason, "")
    else:
        origin = _moved(user, (headers.get("x-death") or [{}])[0])
    return DeadLetter(
        id=hashlib.sha256(body + str(properties.get("message_id")).encode()).hexdigest()[:12],
        message_id=str(properties.get("message_id") or ""),
        op=_op(body),
        size=len(body),
        body=body,
        **origin._asdict(),
    )


_HEADERS = ("sender", "exchange", "key", "reason")


class _Origin(NamedTuple):
    sender: str
    exchange: str
    key: str
    reason: str
    queue: str


def _moved(user: str, death: Mapping[str, Any]) -> _Origin:
    """Read the broker's own note on a message that it moved; its newest comes first."""
    keys = death.get("routing-keys") or [""]
    exchange = str(death.get("exchange") or _usual_exchange(user))
    return _Origin(user, exchange, str(keys[0]), str(death.get("reason") or "unknown"), str(death.get("queue") or ""))


def _op(body: bytes) -> str:
    """Name what it is; of a bundle, what it holds, each once."""
    try:
        return ", ".join(dict.fromkeys(op_of(decode(one)) for one in unbundle(body)))
    except DecodeError as error:
        return f"unreadable: {error.reason}"


def _may_have_sent(letter: DeadLetter) -> bool:
    """Say whether its sender has the right to send such a thing: a replay must give nobody more than that."""
    if letter.key == _word_key(letter.sender):
        return False
    if letter.exchange in (UP, CALLS):
        is_its_own = letter.key.partition(".")[0] == letter.sender
        return is_its_own and (letter.exchange == CALLS) == (kind_of(letter.sender) == "console")
    return letter.exchange == DOWN and kind_of(letter.sender) in (*_CENTRE, "console")


def _usual_exchange(sender: str) -> str:
    return "" if not sender else CALLS if kind_of(sender) == "console" else UP


def _chosen(letters: list[DeadLetter], beginning: str) -> DeadLetter:
    found = {letter.id: letter for letter in letters if letter.id.startswith(beginning)}
    if len(found) == 1:
        return next(iter(found.values()))
    what = "several dead letters begin with" if found else "no dead letter is"
    raise CommandFailed(f"{what} {beginning!r}", "`volcloud dead list` shows their ids")


class _Lender(Management):
    """Makes a user for a moment that may speak as another: the broker refuses a foreign user_id otherwise."""

    def lend(self, user: str, password: str) -> None:
        self._put(f"users/{user}", {"password": password, "tags": _IMPERSONATOR})
        self.put_permissions(user, "^$", r"^vc\.(up|down|calls)$", "^$")


def _publish(connection: Declarer, letter: DeadLetter) -> None:
    returned: list[Any] = []
    channel = connection.channel()
    channel.confirm_select()
    channel.events["basic_return"].add(lambda *given: returned.append(given))
    message = channel.prepare_message(
        letter.body,
        content_type="application/x-msgpack",
        properties={"user_id": letter.sender, "message_id": letter.message_id, "delivery_mode": 2},
    )
    channel.basic_publish_confirm(message, exchange=letter.exchange, routing_key=letter.key, mandatory=True)
    if returned:
        text = f"no queue takes {letter.key!r} any more: the receiver does not exist"
        raise CommandFailed(text, f"`volcloud dead drop {letter.id}`")
