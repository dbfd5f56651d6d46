"""What deals with one kind of message, and the call that it is given. Journal and answer are the responder's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from schemas.envelope import Command, Message, Reply
from schemas.ids import Kind


class Call(msgspec.Struct, frozen=True):
    """One call being answered: who asked, and the ways to talk back while it runs."""

    responder: Any
    message: Message
    sender: str

    async def send(self, message: Message) -> None:
        """Send something to the caller before the answer. Raises Unroutable when the caller is gone."""
        await self.responder.send_to(self.sender, self.message.reply, message)

    async def started(self) -> None:
        """Say that the effect begins: after a crash from here on the answer is ``interrupted``."""
        if isinstance(self.message, Command):
            await self.responder.journal.start(self.message.id)


#: Runs a message and gives its answer; None where none is due. Errors with a ``code`` become ``reply.failed``.
Run = Callable[[Call, Any], Awaitable[Reply | None]]


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """How to deal with one kind of message."""

    run: Run
    #: Kinds of principal that may send it.
    senders: frozenset[Kind] = frozenset({Kind.CONSOLE})
    #: Run again after a crash in its midst: its effect is a goal, not a step.
    repeatable: bool = False
    #: Its effect begins with it, and is noted together with its coming: it does not say ``started`` itself.
    begins: bool = False
    #: The answer is not the handler's return value: someone else ends the journal's entry later.
    ends_elsewhere: bool = False
    #: Deals with a command that an agent before us has left and that may not go on: its effect had begun, or it may
    #: have none any more. In place of the answer ``interrupted``, or of the refusal.
    interrupted: Run | None = None
