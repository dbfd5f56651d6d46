"""What one end of a road publishes: in its order, as soon as the other end lets it, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from broker.confirms import fail
from broker.errors import Disconnected, Nacked, NotDelivered, Unroutable
from broker.road.session import Session, size_of
from schemas.road import Settled, Verdict

_ERRORS: dict[Verdict, type[NotDelivered]] = {Verdict.UNROUTABLE: Unroutable, Verdict.REFUSED: Nacked}


class _Waiting(Struct, frozen=True):
    future: asyncio.Future[None]
    exchange: str
    key: str
    message_id: str
    body: bytes


class RoadPublisher:
    """See the module. Belongs to one loop."""

    def __init__(self, session: Session, write: Callable[[bytes], None]) -> None:
        self._session, self._write = session, write
        #: What the other end does not let us say yet, in the order of its publishing.
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = self._waiting_bytes = 0
        self._unsettled: dict[int, asyncio.Future[None]] = {}
        #: Called when more waits than there is room for: the other end lets nothing be said.
        self.on_flood: Callable[[], None] = lambda: None

    def publish(self, exchange: str, key: str, message_id: str, body: bytes) -> asyncio.Future[None]:
        """Publish it now or soon; the future ends when it is settled: Unroutable, Nacked or Disconnected else."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one = _Waiting(future, exchange, key, message_id, body)
        if len(self._waiting) >= MOST_WAITING or (self._waiting and self._waiting_bytes + _size(one) > MOST_BYTES):
            fail(future, Disconnected("the other end lets nothing be said, and too much waits for it"))
            self.on_flood()
            return future
        self._numbers += 1
        number = self._numbers
        self._waiting[number] = one
        self._waiting_bytes += _size(one)
        self._go_on()
        if number in self._waiting:  # whoever gives it up leaves nothing of it here, however long the other end is mute
            future.add_done_callback(lambda _: self._drop(number))
        return future

    def on_settled(self, settled: Settled) -> None:
        """Hear what became of one."""
        future = self._unsettled.pop(settled.number)
        error = _ERRORS.get(settled.verdict)
        if error is not None:
            fail(future, error(settled.reason))
        elif not future.done():
            future.set_result(None)
        self._go_on()

    def break_off(self, reason: str) -> None:
        """The other end is gone, or another: of what was said and not settled nobody knows what became."""
        waiting, unsettled = self._waiting, self._unsettled
        self._waiting, self._unsettled, self._waiting_bytes = {}, {}, 0
        for future in (*unsettled.values(), *(one.future for one in waiting.values())):
            fail(future, Disconnected(reason))

    def _drop(self, number: int) -> None:
        one = self._waiting.pop(number, None)
        if one is not None:
            self._waiting_bytes -= _size(one)

    def _go_on(self) -> None:
        while self._waiting:
            first = next(iter(self._waiting))
            one = self._waiting[first]
            if not self._session.may_say(_size(one)):
                return
            self._drop(first)
            if one.future.done():
                continue  # whoever wanted it published has given up
            number, frame = self._session.say(one.exchange, one.key, one.message_id, one.body)
            self._unsettled[number] = one.future
            self._write(frame)


#: What may wait because the other end lets nothing be said: messages, and bytes.
MOST_WAITING, MOST_BYTES = 20_000, 64 << 20


def _size(one: _Waiting) -> int:
    return size_of(one.exchange, one.key, one.message_id, one.body)
