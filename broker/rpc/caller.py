"""The console's end of a call: send, wait, and tell every silence apart.

An answer counts only for a pending call with that id, from the principal that was called, delivered on our own reply
queue; everything else is dropped and counted. Deadlines are by the centre's time, which its answers tell: a person's
clock may be wrong.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

import msgspec

from broker.backoff import backoff
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.errors import CallTimeout, Disconnected, Nacked, NotDelivered, RemoteError, Unroutable
from broker.inbound import Refusal, take_in
from broker.outbound import publish, send
from broker.routes import UP, Route, down, reply_queue, up
from broker.rpc.clock import ServerClock
from schemas.codec import op_of
from schemas.envelope import Accepted, CommandState, Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind, kind_of, uuid7

#: How long an agent that lives may take to journal a command and say so, seconds; a person waits for it.
ACCEPT_TIMEOUT_S = 8.0
#: How often a command without an answer is asked after, seconds: an answer lost on the way is found so.
STATE_EVERY_S = 5.0
#: Questions in a row for which there may be nobody: an agent that is started again is back before.
MOST_IN_VAIN = 6
#: The most that a call holds of what was sent and not taken up, bytes: many times what any window grants.
MOST_HELD_BYTES = 16 << 20
#: How long a broker may be away or silent before a call ends, seconds: a person waits for it. A restart takes 6 to 9.
BROKER_PATIENCE_S = 9.0

R = TypeVar("R", bound=Message)
#: What belongs to a call, as (sender, message), its final reply last.
Conversation = AsyncGenerator[tuple[str, Message], None]


class _Pending:
    """A call that has no final answer yet."""

    def __init__(self, message: Message, expected: Callable[[str], bool], accept_s: float) -> None:
        self.message = message
        self.expected = expected
        #: How long it may take until the first word of it, seconds.
        self.accept_s = accept_s
        self.inbox: asyncio.Queue[tuple[str, Message]] = asyncio.Queue()
        self.accepted = False
        #: Questions after it, in a row, for which there was nobody.
        self.asked_in_vain = 0
        #: What has come and was not taken up yet, bytes.
        self.held_bytes = 0

    def has_room(self, message: Message) -> bool:
        """Say whether what comes may be kept until it is taken up: who sends beyond every window is not listened to."""
        size = len(getattr(message, "data", b""))
        if self.held_bytes + size > MOST_HELD_BYTES:
            return False
        self.held_bytes += size
        return True

    async def next(self) -> tuple[str, Message]:
        """Take up what has come, or wait for it."""
        sender, message = await self.inbox.get()
        self.held_bytes -= len(getattr(message, "data", b""))
        return sender, message


class Caller:
    """Calls agents and the centre as one console, over one exclusive reply queue."""

    def __init__(self, connection: Carrier, *, clock: ServerClock | None = None) -> None:
        self._connection = connection
        self.suffix = secrets.token_hex(6)
        #: The centre's time; until an answer has told it, our own stands in.
        self.clock = clock or ServerClock(_unsleeping)
        self._pending: dict[str, _Pending] = {}
        #: Takes (sender, message) of what belongs to no call, such as a file's chunks. False: nobody's.
        self.on_other: Callable[[str, Message], bool] = lambda sender, message: False
        #: Messages dropped, by reason.
        self.refused: Counter[str] = Counter()

    @property
    def now_ms(self) -> int:
        """The centre's time, or our own until it is known, ms since 1970."""
        return self.clock.now_ms() or int(time.time() * 1000)

    async def open(self, user: str) -> None:
        """Have the reply queue. ``user`` is the connection's principal; called once the connection is open."""
        self._key = f"reply.{user}-{self.suffix}"
        await self._connection.consume(
            reply_queue(user, self.suffix), self._on_delivery, bind_to=(UP, f"*.{self._key}"), prefetch=500
        )

    async def call(
        self, target: str, message: Message, kind: type[R], *, timeout_s: float = 60.0, **limits: float
    ) -> R:
        """Call an agent and give its final answer, which must be a ``kind``. ``limits``: see ``stream``.

        Raises RemoteError for an answer that says no, CallTimeout (see ``accepted``), Unroutable when there is no such
        principal, Nacked when its queue is full, Disconnected.
        """
        async with aclosing(self.stream(target, message, timeout_s=timeout_s, **limits)) as conversation:
            async for _, answer in conversation:
                if isinstance(answer, kind):
                    return answer
        raise RemoteError(ErrorCode.INTERNAL, f"{target} sent no {kind.__name__}")

    async def call_centre(self, what: str, message: Message, kind: type[R], *, timeout_s: float = 30.0) -> R:
        """Call the centre (``what`` is the kind in the routing key: call, submit, keys) and give its answer."""
        async with aclosing(self._stream_from_centre(what, message, timeout_s=timeout_s)) as conversation:
            async for _, answer in conversation:
                if isinstance(answer, kind):
                    return answer
        raise RemoteError(ErrorCode.INTERNAL, f"the centre sent no {kind.__name__}")

    async def stream(
        self, target: str, message: Message, *, timeout_s: float, accept_s: float = ACCEPT_TIMEOUT_S, begin_s: float = 0
    ) -> Conversation:
        """Call an agent and yield (sender, message) for all that belongs to the call, its final reply last.

        ``accept_s``: how long the first word of it may take; ``begin_s``: after which it may not begin any more, where
        that is earlier than the end.
        """
        message = self._address(message, target=target, timeout_s=begin_s or timeout_s)
        pending = _Pending(message, lambda sender: sender == target, accept_s)
        async with aclosing(self._converse(pending, down(target), timeout_s, target)) as conversation:
            async for item in conversation:
                yield item

    async def _stream_from_centre(self, what: str, message: Message, *, timeout_s: float) -> Conversation:
        """Call the centre and yield (sender, message) for all that belongs to the call, its final reply last.

        It says no word before its answer: that is waited for until the deadline.
        """
        message = self._address(message, timeout_s=timeout_s)
        pending = _Pending(message, lambda sender: kind_of(sender) in (Kind.ADAPTER, Kind.KEYS), timeout_s)
        route = up(self._connection.user, what)
        async with aclosing(self._converse(pending, route, timeout_s, "the centre")) as conversation:
            async for item in conversation:
                yield item

    async def cast(self, route: Route, message: Message) -> None:
        """Send a message that has no answer of its own (a window, a signal, a chunk). Raises NotDelivered."""
        message = self._address(message)
        try:
            async with asyncio.timeout(BROKER_PATIENCE_S):
                await publish(self._connection, route, message, persistent=False)
        except TimeoutError as error:
            raise Disconnected(f"no broker in {BROKER_PATIENCE_S:.0f} s: {self._connection.trouble}") from error

    def send(self, route: Route, message: Message) -> asyncio.Future[None]:
        """As ``cast``, at once; gives the confirm's future."""
        message = self._address(message)
        return send(self._connection, route, message, persistent=False)

    def _address(self, message: Message, *, target: str = "", timeout_s: float | None = None) -> Message:
        deadline = None if timeout_s is None else self.now_ms + int(timeout_s * 1000)
        return msgspec.structs.replace(message, target=target, reply=self.suffix, deadline_ms=deadline)

    async def _converse(self, pending: _Pending, route: Route, timeout_s: float, whom: str) -> Conversation:
        message, deadline = pending.message, time.monotonic() + timeout_s
        self._pending[message.id] = pending
        try:
            await self._publish(route, message, deadline, whom)
            while True:
                sender, answer = await self._next(pending, route, deadline, whom)
                if isinstance(answer, Failed):
                    raise RemoteError(answer.code, answer.message, answer.hint)
                pending.accepted = True  # whatever it says of the call shows that it is at it
                if isinstance(answer, Accepted):
                    continue
                yield sender, answer
                if isinstance(answer, Reply):
                    return
        finally:
            if self._pending.get(message.id) is pending:
                del self._pending[message.id]

    async def _publish(self, route: Route, message: Message, deadline: float, whom: str) -> None:
        """Publish a call, after a lost link once more, with the same id, for as long as the broker may be away."""
        patience = min(deadline - time.monotonic(), BROKER_PATIENCE_S)
        try:
            await self._publish_within(patience, route, message)
        except TimeoutError as error:
            raise Disconnected(f"no broker in {patience:.0f} s: {self._connection.trouble}") from error
        except Unroutable as error:
            raise Unroutable(f"there is no {whom}: {error}") from error
        except Nacked as error:
            raise Nacked(f"{whom} does not take it now: {error}; wait, then try again") from error

    async def _publish_within(self, patience_s: float, route: Route, message: Message, *, keep: bool = True) -> None:
        """Publish, to be kept by the broker or not. Raises TimeoutError."""
        async with asyncio.timeout(patience_s):
            for wait_s in backoff(0.05, 1.0):
                await self._connection.wait_up()
                with suppress(Disconnected):
                    await publish(self._connection, route, message, persistent=keep)
                    break
                await asyncio.sleep(wait_s)

    async def _next(self, pending: _Pending, route: Route, deadline: float, whom: str) -> tuple[str, Message]:
        """Wait for the next message of a call; ask after it when it is long in coming."""
        asked_at = time.monotonic()
        while True:
            now = time.monotonic()
            until = deadline if pending.accepted else min(deadline, asked_at + pending.accept_s)
            if now >= until:
                raise _silence(pending, whom, now >= deadline)
            try:
                async with asyncio.timeout(min(until - now, STATE_EVERY_S)):
                    return await pending.next()
            except TimeoutError:
                if time.monotonic() < deadline:
                    await self._ask_after(pending, route, whom)

    async def _ask_after(self, pending: _Pending, route: Route, whom: str) -> None:
        """Ask an agent what became of its command. The centre is asked the same again: its answers are repeatable.

        Raises Unroutable when there has been nobody to ask for longer than an agent takes to come back; Disconnected
        when the broker does not take the question, unless the command is at work: then its answer is worth waiting for
        until the deadline.
        """
        question = pending.message
        if pending.message.target:
            question = self._address(CommandState(command=pending.message.id, id=uuid7()))
        try:
            await self._publish_within(BROKER_PATIENCE_S - STATE_EVERY_S, route, question, keep=False)
        except TimeoutError as error:
            if not pending.accepted:
                text = f"no broker in {BROKER_PATIENCE_S:.0f} s: {self._connection.trouble}"
                raise Disconnected(text) from error
        except Unroutable as error:
            pending.asked_in_vain += 1
            if pending.asked_in_vain >= MOST_IN_VAIN:
                raise Unroutable(f"{whom} went away before it had finished: {error}") from error
        except NotDelivered:
            return  # asked again after the next wait; the deadline ends it
        else:
            pending.asked_in_vain = 0

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self.refused[letter.reason] += 1
        elif delivery.routing_key != f"{letter.sender}.{self._key}":
            self.refused["foreign_key"] += 1
        else:
            self._hand_over(letter.sender, letter.message)

    def _hand_over(self, sender: str, message: Message) -> None:
        call = getattr(message, "call", None) or getattr(message, "transfer", None) or message.id
        pending = self._pending.get(call)
        if pending is None:
            if not self.on_other(sender, message):
                self.refused["no_such_call"] += 1
        elif not pending.expected(sender):
            self.refused["wrong_sender"] += 1
        elif not pending.has_room(message):
            self.refused["beyond_window"] += 1  # its end tells that some is missing
        else:
            if isinstance(message, Reply) and message.server_time_ms and kind_of(sender) is Kind.ADAPTER:
                self.clock.learn(message.server_time_ms)
            pending.inbox.put_nowait((sender, message))


def _unsleeping() -> float:
    """A monotonic clock that goes on while a laptop sleeps, seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _silence(pending: _Pending, whom: str, is_deadline: bool) -> CallTimeout:
    op = op_of(pending.message)
    if pending.accepted:
        return CallTimeout(f"{whom} accepted {op} and has not finished it in time; ask again later", accepted=True)
    what = "it passed its deadline there" if is_deadline else "it stays queued until its deadline"
    return CallTimeout(f"{whom} does not answer: {op} is in its queue, the agent is down or cut off; {what}")
