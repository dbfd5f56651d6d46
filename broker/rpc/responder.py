"""The agent's end of a call: check, journal, acknowledge, work, answer.

A command that comes again is answered from the journal and never run again, also after kill -9. What an agent cannot
read it rejects, counts and reports. Which messages there are is the handlers' table; what they do is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from broker.backoff import backoff
from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery
from broker.errors import Forbidden, Unroutable
from broker.inbound import Refusal, Verify, know_no_seal, recall, take_in
from broker.outbound import body_of, deliver
from broker.routes import reply, way_back
from broker.rpc.clock import ServerClock
from broker.rpc.entries import Entry
from broker.rpc.handler import Call, Handler
from broker.rpc.journal import Journal
from broker.rpc.refusals import Refusals
from schemas.codec import Label, clip, fit, op_of
from schemas.envelope import Accepted, Command, CommandState, Failed, Message, Ping, Reply
from schemas.envelope import Done as DoneReply
from schemas.errors import DecodeError, ErrorCode
from schemas.ids import Kind, kind_of
from schemas.plain_text import plain

log = logging.getLogger(__name__)

#: A result that comes within this time needs no ``accepted`` before it, seconds.
ACCEPT_AFTER_S = 0.1
#: How long a command waits for a disk that does not take the journal, seconds; then its sender is told.
JOURNAL_PATIENCE_S = 5.0
#: How long a command with a deadline waits for the first word about the server's time, seconds.
CLOCK_PATIENCE_S = 20.0


class _Refusal(msgspec.Struct, frozen=True):
    """Why a message must have no effect: the answer, and, where it goes to the dead letters, the reason in a word."""

    answer: Failed
    reason: str = ""


class Responder:
    """Answers what comes to one principal's queue."""

    def __init__(
        self,
        connection: Carrier,
        journal: Journal,
        handlers: dict[type[Message], Handler],
        *,
        clock: ServerClock,
        generation: Callable[[], int] = lambda: 0,
        verify: Verify = know_no_seal,
        version: str = "",
    ) -> None:
        """``version`` is what the agent is told by to whoever sends it what it does not know."""
        self._connection = connection
        self.journal = journal
        self._handlers = dict(handlers)
        callers = frozenset({Kind.CONSOLE, Kind.HOST})
        self._handlers.setdefault(Ping, Handler(run=_pong, senders=callers | {Kind.ADAPTER, Kind.KEYS}))
        self._handlers.setdefault(CommandState, Handler(run=self._tell_state, senders=callers))
        self._clock = clock
        self._generation = generation
        self._verify, self._version = verify, version
        self._running = OwnedTasks("responder")
        #: Messages that have come and are not yet judged: they may wait for the server's time.
        self._pondered: set[str] = set()
        self._refusals = Refusals(connection)
        #: Messages refused since the start, by reason; goes out with the beats.
        self.refused = self._refusals.counts

    def recover(self, of: Callable[[Kind | None], bool] = lambda kind: True) -> None:
        """Deal with the commands that an earlier process accepted and did not answer: run them, or answer
        ``interrupted`` where their effect may have begun. Call once, when handlers can run; ``of`` chooses by the kind
        of who sent them, where others answer from the same journal."""
        for entry in self.journal.unfinished():
            if of(kind_of(entry.sender)):
                self._running.spawn(self._recover(entry))

    async def close(self) -> None:
        """Cancel what runs; the journal still holds it."""
        await self._refusals.close()
        await self._running.cancel()

    async def on_delivery(self, delivery: Delivery) -> None:
        """Take one delivery to its acknowledgement; the work goes on after that."""
        letter = take_in(delivery, self._verify)
        if isinstance(letter, Refusal):
            self._refusals.refuse(delivery, letter.reason, letter.detail)
            if letter.unknown is not None:
                # A newer peer: it hears so at once, and need not wait for its deadline.
                answer = _unsupported(letter.unknown.id, plain(letter.unknown.op), self._version)
                await self._answer(letter.sender, letter.unknown, answer)
            return None
        self._pondered.add(letter.message.id)
        try:
            verdict = await self._judge(letter.sender, letter.message)
            if isinstance(verdict, Handler):
                return await self._take(delivery, verdict, letter.message)
            if verdict.reason:
                self._refusals.refuse(delivery, verdict.reason, verdict.answer.message)
            delivery.ack()
            return await self._answer(letter.sender, letter.message, verdict.answer)
        finally:
            self._pondered.discard(letter.message.id)

    async def send_to(self, principal: str, suffix: str, message: Message) -> None:
        """Send until confirmed. Raises Unroutable when that console's queue is gone."""
        await deliver(self._connection, reply(self._connection.user, principal, suffix), message)

    async def _take(self, delivery: Delivery, handler: Handler, message: Message) -> None:
        if not isinstance(message, Command):
            delivery.ack()
            await self._run_plain(handler, Call(self, message, delivery.user_id))
            return
        known = self.journal.get(message.id)
        if known is not None and not known.ended:
            with suppress(OSError):
                await self.journal.barrier()
            known = self.journal.get(message.id)
        if known is None:
            await self._begin(delivery, handler, message)
        else:
            delivery.ack()
            await self._answer_again(delivery.user_id, message, known)

    async def _begin(self, delivery: Delivery, handler: Handler, message: Message) -> None:
        """Journal a command, acknowledge it and let it run. One that the disk does not take is refused, and told."""
        problem = await self._why_not_journalled(delivery, message, started=handler.begins)
        if problem is None:
            delivery.ack()
            self._running.spawn(self._run_command(handler, Call(self, message, delivery.user_id)))
            return
        text = f"this agent cannot write its journal: {problem.strerror or problem}"
        self._refusals.refuse(delivery, "journal", text)
        hint = "make room on its disk, then send it again"
        failed = Failed(call=message.id, code=ErrorCode.STORE, message=text, hint=hint)
        await self._answer(delivery.user_id, message, failed)

    async def _why_not_journalled(self, delivery: Delivery, message: Message, *, started: bool) -> OSError | None:
        deadline = time.monotonic() + JOURNAL_PATIENCE_S
        for wait_s in backoff(0.2, 2.0):
            try:
                await self.journal.accept(message.id, delivery.user_id, delivery.body, started=started)
            except OSError as error:
                if time.monotonic() + wait_s > deadline:
                    return error
                await asyncio.sleep(wait_s)
            else:
                break
        return None

    async def _answer_again(self, sender: str, message: Message, known: Entry) -> None:
        answer = Accepted(call=message.id) if known.reply is None else _stored(known)
        if answer is not None:
            await self._answer(sender, message, answer)

    async def _judge(self, sender: str, message: Message) -> Handler | _Refusal:
        """Say who deals with a message, or why nobody may: when it comes, and again after a crash in its midst."""
        handler = self._handlers.get(type(message))
        if handler is None:
            return _Refusal(_unsupported(message.id, op_of(message), self._version), "unknown_op")
        if kind_of(sender) not in handler.senders:
            text = f"{sender!r} may not send {op_of(message)}"
            return _Refusal(Failed(call=message.id, code=ErrorCode.FORBIDDEN, message=text), "forbidden")
        problem = await self._problem(message)
        return handler if problem is None else _Refusal(problem)

    async def _problem(self, message: Message) -> Failed | None:
        """Say why a message must not take effect, whatever it asks."""
        mine = self._generation()
        if message.generation and mine and message.generation != mine:
            return Failed(
                call=message.id,
                code=ErrorCode.STALE_GENERATION,
                message=f"generation = {message.generation}: this VM is at {mine}",
                hint="look the VM up again and repeat the command",
            )
        late = "" if message.deadline_ms is None else await self._why_late(message.deadline_ms)
        if not late:
            return None
        return Failed(call=message.id, code=ErrorCode.DEADLINE, message=late, hint="send it again")

    async def _why_late(self, deadline_ms: int) -> str:
        """Say why a deadline counts as passed; empty when there is time left."""
        if self._clock.now_ms() is None:
            await self._connection.wait_up()
            try:
                async with asyncio.timeout(CLOCK_PATIENCE_S):
                    await self._clock.wait_known()
            except TimeoutError:
                return "the centre has not told the time, so its deadline cannot be judged"
        now = self._clock.now_ms()
        return "its deadline passed before it came" if now is None or now > deadline_ms else ""

    async def _run_plain(self, handler: Handler, call: Call) -> None:
        answer = await self._guarded(handler, call)
        if answer is not None:
            await self._answer(call.sender, call.message, answer)

    async def _run_command(self, handler: Handler, call: Call) -> None:
        if handler.ends_elsewhere:
            await self._guarded(handler, call)
            return
        accepting: list[asyncio.Task[None]] = []

        def accept() -> None:
            accepted = Accepted(call=call.message.id)
            accepting.append(self._running.spawn(self._answer(call.sender, call.message, accepted)))

        soon = asyncio.get_running_loop().call_later(ACCEPT_AFTER_S, accept)
        try:
            answer = await self._guarded(handler, call) or DoneReply(call=call.message.id)
        finally:
            soon.cancel()
        await self._end(call.sender, call.message, answer, after=accepting)

    async def _end(
        self, sender: str, message: Message, answer: Reply, *, after: Sequence[asyncio.Task[None]] = ()
    ) -> None:
        """Note the final answer of a command, then give it, once what was to be said before it is said."""
        answer = fit(answer)
        await self.journal.end(message.id, body_of(answer))
        await asyncio.gather(*after, return_exceptions=True)
        await self._answer(sender, message, answer)

    async def _guarded(self, handler: Handler, call: Call) -> Reply | None:
        """Run a handler; an error with a code of the wire is an answer, any other is one with a log entry."""
        try:
            return await handler.run(call, call.message)
        except Exception as error:  # a handler's top: whatever broke, the caller is told
            code = getattr(error, "code", None)
            if code is None:
                log.exception("command failed", extra={"op": op_of(call.message), "command": call.message.id})
            text = clip(str(error) or type(error).__name__)
            return Failed(
                call=call.message.id,
                code=ErrorCode(code) if code else ErrorCode.INTERNAL,
                message=text,
                hint=getattr(error, "hint", "") if code else "see the agent's log",
            )

    async def _recover(self, entry: Entry) -> None:
        try:
            message = recall(entry.command or b"", entry.sender, self._verify)
        except DecodeError:
            return await self.journal.end(entry.id, body_of(_interrupted(entry.id)))
        verdict = await self._judge(entry.sender, message)
        call = Call(self, message, entry.sender)
        handler = self._handlers.get(type(message))
        if isinstance(verdict, Handler) and (verdict.repeatable or not entry.started):
            return await self._run_command(verdict, call)
        if handler is not None and handler.interrupted is not None:
            failed = await self._guarded(msgspec.structs.replace(handler, run=handler.interrupted), call)
            return None if failed is None else await self._end(entry.sender, message, failed)
        answer = _interrupted(entry.id) if entry.started or isinstance(verdict, Handler) else verdict.answer
        return await self._end(entry.sender, message, answer)

    async def _answer(self, sender: str, message: Message | Label, answer: Reply) -> None:
        """Answer whoever called, where there is a way back."""
        if way_back(self._connection.user, sender, message.reply) is None:
            return
        try:
            await self.send_to(sender, message.reply, fit(answer))
        except (Unroutable, Forbidden) as error:
            log.info("caller gone", extra={"caller": sender, "command": message.id, "why": str(error)})

    async def _tell_state(self, call: Call, message: CommandState) -> Reply | None:
        """Answer from the journal. A command that has come and is not yet judged is neither: no answer, ask again."""
        entry = self.journal.get(message.command)
        if entry is None and message.command in self._pondered:
            return None
        if entry is None:
            return Failed(
                call=message.command,
                code=ErrorCode.NOT_FOUND,
                message=f"command {message.command} never came here",
                hint="send it again with the same id",
            )
        stored = _stored(entry) if entry.ended else None
        return stored if stored is not None else Accepted(call=message.command)


def _unsupported(call: str, op: str, version: str) -> Failed:
    age = f"version {version}" if version else "older, or of another kind"
    hint = f"the agent is {age}: update it where it runs, or do without {op}"
    return Failed(call=call, code=ErrorCode.UNSUPPORTED, message=f"this agent does not take {op}", hint=hint)


def _interrupted(command_id: str) -> Failed:
    return Failed(
        call=command_id,
        code=ErrorCode.INTERRUPTED,
        message="the agent was restarted while this ran; it may have had its effect",
        hint="look at what it did, then send a new command",
    )


def _stored(entry: Entry) -> Reply | None:
    """Read an answer that the journal holds; an empty one says that there was nothing to answer."""
    if not entry.reply:
        return None
    message = recall(entry.reply)
    return message if isinstance(message, Reply) else None


async def _pong(call: Call, message: Ping) -> Reply:
    return DoneReply(call=message.id)
