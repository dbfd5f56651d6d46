"""The door at which sites ask: each in its turn, a few at a time, so that none waits for what another asks.

What a site may not ask is moved to the dead letters, and it is told; what fails here is told in few words, since a site
is a stranger, and stands in the log in all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from adapters.errors import LedgerError, LedgerUnavailable, NotStored, StoreError
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.inbound import Letter, Refusal, take_in
from broker.outbound import answer_of
from broker.routes import down
from broker.turns import Turns
from schemas.codec import clip, op_of
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind

log = logging.getLogger(__name__)

#: Questions that wait or are at work, of all sites and of one.
PLACES, OF_ONE = 400, 50
AGAIN = "ask again in a while"

#: Moves what is not taken to the dead letters, and tells its sender: (delivery, reason, text, sender, message).
Refuse = Callable[..., Awaitable[None]]
#: Answers a site's question: (site, message). Raises AdapterError, OSError.
Answer = Callable[[str, Message], Awaitable[Reply]]


class SiteDoor:
    """See the module. Belongs to the adapter's loop."""

    def __init__(
        self,
        connection: Carrier,
        refuse: Refuse,
        takes: frozenset[type[Message]],
        answer: Answer,
        *,
        at_once: int,
        render: Callable[[Reply], bytes] = answer_of,
    ) -> None:
        """``at_once`` of its questions are looked up at a time, of different sites."""
        self._connection, self._refuse = connection, refuse
        self._takes, self._answer, self._render = takes, answer, render
        self._turns, self._looking = Turns(PLACES, OF_ONE), asyncio.Semaphore(at_once)

    async def on_delivery(self, delivery: Delivery) -> None:
        """Have a question answered in its turn; refuse what is none, and what is too much of one site's."""
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            await self._refuse(delivery, letter.reason, letter.detail)
        elif letter.kind is not Kind.SITE or type(letter.message) not in self._takes:
            text = f"{op_of(letter.message)} is not taken from {letter.sender} here"
            await self._refuse(delivery, "not_taken", text, letter.sender, letter.message)
        elif not self._turns.take(letter.sender, partial(self._serve, letter, delivery), OF_ONE):
            text = f"{letter.sender} has asked {OF_ONE} things that are not answered yet, or others have too many"
            self._send(letter, delivery, failed(letter.message, ErrorCode.NO_ROOM, text, AGAIN))

    async def close(self) -> None:
        """End what is at work; who has no answer asks again. Idempotent."""
        await self._turns.close()

    async def _serve(self, letter: Letter, delivery: Delivery) -> None:
        async with self._looking:
            answer = await self._answered(letter.sender, letter.message)
        self._send(letter, delivery, answer)

    def _send(self, letter: Letter, delivery: Delivery, answer: Reply) -> None:
        self._connection.send(*down(letter.sender), self._render(answer), message_id=answer.id, mandatory=False)
        delivery.ack()

    async def _answered(self, site: str, message: Message) -> Reply:
        try:
            return await self._answer(site, message)
        except NotStored:
            return failed(message, ErrorCode.NOT_FOUND, "the store has it no more", "`job.retry` or a new job makes it")
        except (LedgerUnavailable, StoreError, OSError) as error:
            log.error("site not answered", extra={"op": op_of(message), "site": site, "why": str(error)})
            code = ErrorCode.STORE if not isinstance(error, LedgerError) else ErrorCode.INTERNAL
            return failed(message, code, "that cannot be looked up just now", AGAIN)
        except LedgerError as error:
            return failed(message, error.code, str(error), "`job.list` and `job.show` tell the names")
        except Exception:
            log.exception("question failed", extra={"op": op_of(message), "site": site})
            return failed(message, ErrorCode.INTERNAL, "that cannot be answered", "tell the centre's operator")


def failed(message: Message, code: ErrorCode, text: str, hint: str) -> Failed:
    """Say no to a question."""
    return Failed(call=message.id, code=code, message=clip(text), hint=hint)
