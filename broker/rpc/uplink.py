"""What an agent says to the centre: stamped with its boot generation, published until confirmed.

What may wait a moment is batched and goes as a bundle: a message of its own costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.errors import CallTimeout, NotDelivered, RemoteError
from broker.outbound import body_of, deliver
from broker.routes import up
from schemas.codec import BUNDLE_BYTES, MOST_IN_BUNDLE, bundle
from schemas.envelope import Failed, Message, Reply
from schemas.ids import uuid7


class _Batch:
    """Messages of one kind that wait to go together."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.size = 0
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def has_room_for(self, body: bytes) -> bool:
        return not self.bodies or (len(self.bodies) < MOST_IN_BUNDLE and self.size + len(body) <= BUNDLE_BYTES)

    def add(self, body: bytes) -> None:
        self.bodies.append(body)
        self.size += len(body)


class Uplink:
    """Publishes as the connection's principal, and keeps the answers that are awaited."""

    def __init__(self, connection: Carrier, generation: Callable[[], int]) -> None:
        self._connection = connection
        self._generation = generation
        self._awaited: dict[str, asyncio.Future[Reply]] = {}
        self._batches: dict[str, _Batch] = {}
        self._sending = OwnedTasks("uplink")

    @property
    def generation(self) -> int:
        """The boot generation that this agent speaks for."""
        return self._generation()

    async def say(self, kind: str, message: Message, *, persistent: bool = True, as_is: bool = False) -> None:
        """Publish until confirmed; ``as_is`` keeps the message's own generation. Raises Unroutable or Forbidden."""
        if not as_is:
            message = msgspec.structs.replace(message, generation=self._generation())
        await self._connection.wait_up()
        await deliver(self._connection, up(self._connection.user, kind), message, persistent=persistent)

    async def publish_batched(self, kind: str, message: Message, *, within_s: float) -> None:
        """Like ``say``, persistent, in a bundle with what else of this kind comes ``within_s``; with 0 all goes now."""
        body = body_of(msgspec.structs.replace(message, generation=self._generation()))
        batch = self._batches.get(kind)
        if batch is not None and not batch.has_room_for(body):
            self._send_batch(kind, batch)
            batch = None
        if batch is None:
            batch = self._batches[kind] = _Batch()
        batch.add(body)
        if not within_s:
            self._send_batch(kind, batch)
        elif len(batch.bodies) == 1:
            asyncio.get_running_loop().call_later(within_s, self._send_batch, kind, batch)
        await asyncio.shield(batch.sent)

    def _send_batch(self, kind: str, batch: _Batch) -> None:
        if self._batches.get(kind) is not batch:
            return  # it has gone: it was full, or in a hurry
        del self._batches[kind]
        self._sending.spawn(self._send(kind, batch))

    async def _send(self, kind: str, batch: _Batch) -> None:
        try:
            await self._connection.wait_up()
            route = up(self._connection.user, kind)
            await self._connection.deliver(*route, bundle(batch.bodies), message_id=uuid7())
        except NotDelivered as error:
            batch.sent.set_exception(error)
            batch.sent.exception()  # whoever waited may have given up
        else:
            batch.sent.set_result(None)

    async def ask(self, kind: str, message: Message, *, timeout_s: float, as_is: bool = False) -> Reply:
        """Publish and wait for the answer to this id. Raises CallTimeout; RemoteError when the answer is a no."""
        return await self._answered(kind, message, self.say(kind, message, as_is=as_is), timeout_s)

    async def ask_batched(self, kind: str, message: Message, *, timeout_s: float, within_s: float) -> Reply:
        """Like ``ask``, published with ``publish_batched``."""
        return await self._answered(kind, message, self.publish_batched(kind, message, within_s=within_s), timeout_s)

    async def _answered(self, kind: str, message: Message, said: Awaitable[None], timeout_s: float) -> Reply:
        future = self._awaited.setdefault(message.id, asyncio.get_running_loop().create_future())
        try:
            await said
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise CallTimeout(f"no answer to {kind} in {timeout_s:g} s") from error
        finally:
            self._awaited.pop(message.id, None)
        if isinstance(answer, Failed):
            raise RemoteError(answer.code, answer.message, answer.hint)
        return answer

    def on_answer(self, answer: Reply) -> bool:
        """Hand over an answer that came. False: nobody waits for it."""
        future = self._awaited.get(answer.call)
        if future is None or future.done():
            return False
        future.set_result(answer)
        return True
