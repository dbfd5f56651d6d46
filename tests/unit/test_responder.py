"""What an agent makes of each message: settled on every path, and judged alike when it comes and after a crash."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.delivery import Delivery, Subscription
from broker.inbound import receiver
from broker.memory import MemoryCarrier
from broker.rpc import Call, Handler, Journal, Responder, ServerClock
from broker.rpc import responder as responder_module
from broker.rpc.group_commit import GroupCommit
from schemas.codec import MESSAGES, decode, encode
from schemas.envelope import Command, Done, Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.examples import example
from schemas.ids import Kind
from schemas.vms import VmDelete, VmStart
from tests.broker.polling import until

EVERYBODY = frozenset({Kind.CONSOLE, Kind.ADAPTER, Kind.KEYS, Kind.VM, Kind.HOST})
NOW_MS = 1_800_000_000_000
WEEK_MS = 7 * 86_400_000


class Wire(MemoryCarrier):
    """A carrier; ``cut``: nothing is ever confirmed."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__("host-a")
        if cut:
            self.cut()

    @property
    def said(self) -> list[Message]:
        return [decode(body) for _, _, body in self.sent]


class Channel:
    """Stands in for a channel and its method frame; notes what becomes of the one delivery."""

    exchange, routing_key, redelivered, delivery_tag = "vc.down", "host.a", False, 1

    def __init__(self) -> None:
        self.settled: list[str] = []

    def open(self, _: int) -> Callable[[bool], None]:
        return lambda rejected: self.settled.append("rejected" if rejected else "acknowledged")

    def drop(self, tag: int) -> None:
        self.open(tag)(False)


class Content:
    """Content properties as a library gives them."""

    message_id = correlation_id = reply_to = headers = None
    delivery_mode = 2

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id


class Brittle(GroupCommit):
    """What writes to a disk that is full for one kind of record."""

    full_for = ""
    refused = 0

    async def append(self, *records: list[object], within_s: float = 0.0) -> None:
        if any(self.full_for in ("all", record[0]) for record in records):
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().append(*records, within_s=within_s)


class Agent:
    """A responder whose handlers take every message there is, and note it."""

    def __init__(self, directory: Path, *, run: str = "answers", full_for: str = "", cut: bool = False) -> None:
        self.ran: list[str] = []
        self.wire = Wire(cut=cut)
        self.journal = Journal(directory / "journal")
        self.journal.open()
        self.disk = self.journal._commit = Brittle(self.journal._file, self.journal._on_written)
        self.disk.full_for = full_for
        self.clock = ServerClock()
        self.clock.learn(NOW_MS)
        self.generation = 3
        self._run = run
        handler = Handler(run=self.handle, senders=EVERYBODY, repeatable=True)
        handlers = dict.fromkeys(MESSAGES.values(), handler)
        self.responder = Responder(
            self.wire, self.journal, handlers, clock=self.clock, generation=lambda: self.generation
        )

    async def handle(self, call: Call, message: Message) -> Reply:
        await call.started()
        self.ran.append(message.id)
        if self._run == "breaks":
            raise ValueError("x" * (2 << 20))
        if self._run == "is long":
            return Failed(call=message.id, code=ErrorCode.INTERNAL, message="x" * (2 << 20))
        return Done(call=message.id)

    async def take(self, message: Message | bytes, sender: str = "console-a") -> list[str]:
        """Let it come by the link's own receiver; give what became of it."""
        channel = Channel()
        tasks: list[asyncio.Future[None]] = []
        subscription = Subscription(queue="host.a", handler=self.responder.on_delivery)
        receive = receiver(subscription, channel, lambda work: tasks.append(asyncio.ensure_future(work)))
        receive(None, channel, Content(sender), message if isinstance(message, bytes) else encode(message))
        await until(lambda: bool(channel.settled))
        if self.wire.is_up:
            await asyncio.gather(*tasks)
        for task in tasks:
            task.cancel()
        return channel.settled

    async def close(self) -> None:
        await self.responder.close()
        self.disk.full_for = ""
        await self.journal.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder_module, "JOURNAL_PATIENCE_S", 0.01)


@asynccontextmanager
async def agent_of(directory: Path, **options: Any) -> AsyncIterator[Agent]:
    agent = Agent(directory, **options)
    try:
        yield agent
    finally:
        await agent.close()


TROUBLE = {
    "a disk that is full": {"full_for": "all"},
    "a disk that takes no beginning": {"full_for": "start"},
    "a disk that takes no answer": {"full_for": "end"},
    "a handler that breaks": {"run": "breaks"},
    "an answer that does not fit": {"run": "is long"},
    "a cut link": {"cut": True},
    "a cut link and a full disk": {"cut": True, "full_for": "all"},
    "none": {},
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.parametrize("sender", ["console-a", "adapter-b", "site-c"])
async def test_whatever_breaks_every_message_is_settled_once(
    tmp_path: Path, trouble: dict[str, Any], sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    async with agent_of(tmp_path, **trouble) as agent:
        agent.generation = 0
        for op in MESSAGES:
            assert len(await agent.take(example(op).__class__(**_fields(op)), sender)) == 1, op


def _fields(op: str) -> dict[str, Any]:
    """An example's fields, under an id of its own and without a deadline: so that each is a message that may run."""
    message = example(op)
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return {**fields, "id": f"id-{op}", "deadline_ms": None}


async def test_a_disk_that_takes_no_command_is_told_to_a_console_and_the_command_does_not_run(tmp_path: Path) -> None:
    async with agent_of(tmp_path, full_for="all") as agent:
        settled = await agent.take(VmStart(vm="vm-1", id="c1"))

        assert settled == ["rejected"]
        assert agent.ran == []
        (failed,) = [one for one in agent.wire.said if isinstance(one, Failed)]
        assert (failed.call, failed.code) == ("c1", ErrorCode.STORE)
        assert "journal: No space left on device" in failed.message


@pytest.mark.parametrize("begins", [True, False])
async def test_what_begins_with_its_coming_is_noted_as_begun_before_it_runs(tmp_path: Path, begins: bool) -> None:
    noted: list[bool] = []

    async def look(call: Call, message: Message) -> Reply:
        after = Journal(tmp_path / "journal")
        after.open()
        noted.extend(one.started for one in after.unfinished())
        await after.close()
        return Done(call=message.id)

    async with agent_of(tmp_path) as agent:
        agent.responder._handlers[VmStart] = Handler(run=look, begins=begins)
        await agent.take(VmStart(vm="vm-1", id="c1"))
        await until(lambda: bool(agent.wire.said))

    assert noted == [begins]


async def test_an_answer_goes_out_although_the_disk_does_not_take_it(tmp_path: Path) -> None:
    async with agent_of(tmp_path, full_for="end") as agent:
        await agent.take(VmStart(vm="vm-1", id="c1"))

        await until(lambda: any(isinstance(one, Done) for one in agent.wire.said))
        assert agent.disk.refused == 1


async def test_an_answer_that_is_too_long_is_a_failure_that_says_so(tmp_path: Path) -> None:
    async with agent_of(tmp_path, run="is long") as agent:
        await agent.take(VmStart(vm="vm-1", id="c1"))

        await until(lambda: any(isinstance(one, Failed) for one in agent.wire.said))
        (failed,) = [one for one in agent.wire.said if isinstance(one, Failed)]
        assert "does not fit" in failed.message
        assert (agent.journal.get("c1") or agent).ended  # type: ignore[union-attr]


async def left_behind(directory: Path, message: Command, *, started: bool = False) -> None:
    """A journal as an agent leaves it that was killed with this command at hand."""
    journal = Journal(directory / "journal")
    journal.open()
    await journal.accept(message.id, "console-a", encode(message))
    if started:
        await journal.start(message.id)
    await journal.close()


JUDGED = {
    "a week past its deadline": (VmDelete(vm="vm-1", id="c1", deadline_ms=NOW_MS - WEEK_MS), ErrorCode.DEADLINE),
    "of another generation": (VmDelete(vm="vm-1", id="c1", generation=2), ErrorCode.STALE_GENERATION),
    "late and begun": (VmStart(vm="vm-1", id="c1", deadline_ms=NOW_MS - 1), ErrorCode.INTERRUPTED),
}


@pytest.mark.parametrize(("message", "code"), JUDGED.values(), ids=JUDGED)
async def test_a_command_that_a_crash_has_left_is_judged_as_one_that_comes(
    tmp_path: Path, message: Command, code: ErrorCode
) -> None:
    await left_behind(tmp_path, message, started=code is ErrorCode.INTERRUPTED)
    async with agent_of(tmp_path) as agent:
        agent.responder.recover()
        await until(lambda: bool(agent.wire.said))

        (answer,) = agent.wire.said
        assert isinstance(answer, Failed)
        assert answer.code == code
        assert agent.ran == []
        assert (agent.journal.get("c1") or agent).ended  # type: ignore[union-attr]


async def test_a_command_of_now_that_a_crash_has_left_is_carried_out(tmp_path: Path) -> None:
    message = VmDelete(vm="vm-1", id="c1", generation=3, deadline_ms=NOW_MS + int(time.monotonic()) + 60_000)
    await left_behind(tmp_path, message)
    async with agent_of(tmp_path) as agent:
        agent.responder.recover()

        await until(lambda: agent.ran == ["c1"])


async def test_after_a_crash_a_deadline_is_judged_once_the_link_is_there_and_the_time_known(tmp_path: Path) -> None:
    await left_behind(tmp_path, VmDelete(vm="vm-1", id="c1", deadline_ms=NOW_MS - 1))
    async with agent_of(tmp_path, cut=True) as agent:
        agent.clock.forget()
        agent.responder.recover()
        await asyncio.sleep(0.05)
        assert not (agent.journal.get("c1") or agent).ended  # type: ignore[union-attr]

        agent.wire.mend()
        agent.clock.learn(NOW_MS)
        await until(lambda: bool(agent.wire.said))
        (answer,) = agent.wire.said
        assert isinstance(answer, Failed)
        assert (answer.code, agent.ran) == (ErrorCode.DEADLINE, [])


async def test_what_a_handler_keeps_for_what_may_not_go_on_is_asked(tmp_path: Path) -> None:
    left: list[str] = []

    async def leave(call: Call, message: Message) -> Reply | None:
        left.append(message.id)
        return None

    await left_behind(tmp_path, VmDelete(vm="vm-1", id="c1", generation=2))
    async with agent_of(tmp_path) as agent:
        handler = Handler(run=agent.handle, ends_elsewhere=True, interrupted=leave, repeatable=True)
        agent.responder._handlers[VmDelete] = handler
        agent.responder.recover()

        await until(lambda: left == ["c1"])
        assert agent.ran == []


async def test_a_handler_that_raises_before_it_has_settled_has_its_message_rejected(tmp_path: Path) -> None:
    def broken(_: Delivery) -> None:
        raise KeyError("vm")

    async def broken_later(_: Delivery) -> None:
        raise KeyError("vm")

    for handler in (broken, broken_later):
        channel, tasks = Channel(), []  # type: ignore[var-annotated]
        subscription = Subscription(queue="q", handler=handler)
        receiver(subscription, channel, lambda work: tasks.append(asyncio.ensure_future(work)))(  # noqa: B023
            None, channel, Content("vm-a"), b"x"
        )
        await asyncio.gather(*tasks)

        assert channel.settled == ["rejected"]


async def test_what_comes_again_is_thrown_away_unread_where_it_is_said_again_anyway() -> None:
    came: list[Delivery] = []
    channel = Channel()
    channel.redelivered = True  # type: ignore[misc]
    receive = receiver(Subscription(queue="q", handler=came.append, once=True), channel, lambda _: None)

    receive(None, channel, Content("vm-a"), b"x")

    assert (came, channel.settled) == ([], ["acknowledged"])
