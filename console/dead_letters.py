"""The dead letters: what nobody could read or take, why, and whose it was; looked at, sent again, thrown away.

Read with kombu as the administrator of a data directory's node. Looking takes letters and gives them back unread, so
that they stay in their order. Calls block.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from broker.entities import Declarer, administrator
from broker.management import Management
from broker.minting import new_password
from broker.node import NodeAddress
from broker.routes import CALLS, DEAD, UP, kind_of, queue_of
from console.errors import CommandFailed, Unreachable
from schemas.codec import decode, op_of, unbundle
from schemas.envelope import Refused
from schemas.errors import DecodeError
from schemas.ids import unguessable

#: Letters that one look takes; the queue is bounded, and they are held unacknowledged meanwhile.
MOST_SEEN = 1000
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
        if not letter.sender or not letter.exchange:
            text = f"dead letter {letter.id}: it does not say who sent it, or where to"
            raise CommandFailed(text, f"`volcloud dead drop {letter.id}`")
        user, password = unguessable("once"), new_password()
        lender = _Lender(self._address)
        try:
            lender.lend(user, password)
            with _connected(administrator(self._address.host, self._address.amqp_port, user, password)) as connection:
                _publish(connection, letter)
        finally:
            lender.delete_user(user)
        return self.drop(letter.id)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Open a channel; what was taken from the queue and not acknowledged goes back when it closes."""
        node = self._address
        with (
            _connected(administrator(node.host, node.amqp_port, node.admin_user, node.admin_password)) as connection,
            connection.channel() as channel,
        ):
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
    if said:
        agent = letter.queue.replace(".", "-", 1)
        letter = msgspec.structs.replace(letter, reason=said[-1][0].reason, refused_by=agent)
    return letter, [tag, *(tag for _, tag in said)]


def _word(letter: DeadLetter) -> Refused | None:
    """Read an agent's word on what it rejected. The key is the broker's word that the agent has said it."""
    if letter.exchange != UP or letter.key != f"{letter.sender}.refused":
        return None
    with suppress(DecodeError):
        message = decode(letter.body)
        return message if isinstance(message, Refused) else None
    return None


def _read(message: Any) -> DeadLetter:
    """Say what a letter is, from our headers where the centre moved it, else from the broker's."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    properties = message.properties
    headers = properties.get("application_headers") or {}
    death = (headers.get("x-death") or [{}])[0]
    sender = str(headers.get("x-volcloud-sender") or properties.get("user_id") or "")
    keys = death.get("routing-keys") or [message.delivery_info.get("routing_key", "")]
    return DeadLetter(
        id=hashlib.sha256(body + str(properties.get("message_id")).encode()).hexdigest()[:12],
        message_id=str(properties.get("message_id") or ""),
        reason=str(headers.get("x-volcloud-reason") or death.get("reason") or "unknown"),
        sender=sender,
        exchange=str(headers.get("x-volcloud-exchange") or death.get("exchange") or _usual_exchange(sender)),
        key=str(headers.get("x-volcloud-key") or keys[0]),
        queue=str(death.get("queue") or ""),
        op=_op(body),
        size=len(body),
        body=body,
    )


def _op(body: bytes) -> str:
    """Name what it is; of a bundle, what it holds, each once."""
    try:
        return ", ".join(dict.fromkeys(op_of(decode(one)) for one in unbundle(body)))
    except DecodeError as error:
        return f"unreadable: {error.reason}"


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
