"""What an agent says to the centre: stamped with its boot generation, published until confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from broker.connection import Connection
from broker.errors import CallTimeout, RemoteError
from broker.routes import up
from schemas.codec import encode
from schemas.envelope import Failed, Message, Reply


class Uplink:
    """Publishes as the connection's principal, and keeps the answers that are awaited."""

    def __init__(self, connection: Connection, generation: Callable[[], int]) -> None:
        self._connection = connection
        self._generation = generation
        self._awaited: dict[str, asyncio.Future[Reply]] = {}

    @property
    def generation(self) -> int:
        """The boot generation that this agent speaks for."""
        return self._generation()

    async def say(self, kind: str, message: Message, *, persistent: bool = True, as_is: bool = False) -> None:
        """Publish until confirmed; ``as_is`` keeps the message's own generation. Raises Unroutable or Forbidden."""
        if not as_is:
            message = msgspec.structs.replace(message, generation=self._generation())
        await self._connection.wait_up()
        route = up(self._connection.user, kind)
        await self._connection.deliver(*route, encode(message), message_id=message.id, persistent=persistent)

    async def ask(self, kind: str, message: Message, *, timeout_s: float, as_is: bool = False) -> Reply:
        """Publish and wait for the answer to this id. Raises CallTimeout; RemoteError when the answer is a no."""
        future = self._awaited.setdefault(message.id, asyncio.get_running_loop().create_future())
        try:
            await self.say(kind, message, as_is=as_is)
            answer = await asyncio.wait_for(asyncio.shield(future), timeout_s)
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
