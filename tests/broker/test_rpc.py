"""Calls against a real broker: journal, redelivery, kills between the steps, silences told apart, forged answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.address import Address
from broker.connection import Connection
from broker.errors import CallTimeout, RemoteError, Unroutable
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder
from broker.rpc import caller as caller_module
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from schemas.codec import bundle, encode
from schemas.envelope import Command, CommandState, Done, Message, Ping, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind
from schemas.vms import VmList, VmPause, VmReset, VmResume, Vms
from tests.broker.polling import until

Mint = Callable[..., Address]


class Host:
    """An agent with two commands: pause counts its runs, resume blocks until it is let go."""

    def __init__(self, address: Address, directory: Path) -> None:
        self.address = address
        self.directory = directory
        self.runs: list[str] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    @asynccontextmanager
    async def up(
        self, senders: frozenset[Kind] = frozenset({Kind.CONSOLE}), *, bundles: bool = False
    ) -> AsyncIterator[Responder]:
        connection = Connection(self.address, name="host")
        journal = Journal(self.directory / "journal")
        journal.open()
        handlers: dict[type[Message], Handler] = {
            VmPause: Handler(run=self.pause, senders=senders),
            VmResume: Handler(run=self.block),
            VmReset: Handler(run=self.fail),
        }
        responder = Responder(connection, journal, handlers, clock=wall_clock())
        await connection.consume(queue_of(self.address.user), responder.on_delivery, prefetch=4, bundles=bundles)
        await connection.open()
        responder.recover()
        try:
            yield responder
        finally:
            await responder.close()
            await connection.close()
            await journal.close()

    async def pause(self, call: Call, message: VmPause) -> Reply:
        await call.started()
        self.runs.append(message.id)
        return Done(call=message.id)

    async def block(self, call: Call, message: VmResume) -> Reply:
        await call.started()
        self.runs.append(message.id)
        self.begun.set()
        await self.go.wait()
        return Done(call=message.id)

    async def fail(self, call: Call, message: VmReset) -> Reply:
        raise ValueError("the hypervisor fell over")


@asynccontextmanager
async def caller_of(address: Address) -> AsyncIterator[Caller]:
    async with Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open(address.user)
        yield caller


@pytest.fixture
def host(mint: Mint, tmp_path: Path) -> Host:
    return Host(mint("host"), tmp_path)


async def test_a_command_is_run_once_and_answered(mint: Mint, host: Host) -> None:
    async with host.up(), caller_of(mint("console")) as caller:
        command = VmPause(vm="vm-1")

        answer = await caller.call(host.address.user, command, Done)

        assert answer.call == command.id
        assert host.runs == [command.id]


async def test_the_same_command_again_is_answered_from_the_journal(mint: Mint, host: Host) -> None:
    async with host.up(), caller_of(mint("console")) as caller:
        command = VmPause(vm="vm-1")

        answers = [await caller.call(host.address.user, command, Done) for _ in range(3)]

        assert len({a.id for a in answers}) == 1
        assert host.runs == [command.id]


async def test_after_a_restart_the_same_command_is_still_answered_from_the_journal(mint: Mint, host: Host) -> None:
    async with caller_of(mint("console")) as caller:
        command = VmPause(vm="vm-1")
        async with host.up():
            await caller.call(host.address.user, command, Done)

        async with host.up():
            await caller.call(host.address.user, command, Done)

        assert host.runs == [command.id]


async def test_a_command_cut_short_by_a_kill_is_answered_interrupted(mint: Mint, host: Host) -> None:
    async with caller_of(mint("console")) as caller:
        async with host.up():
            call = asyncio.ensure_future(caller.call(host.address.user, VmResume(vm="vm-1"), Done))
            await asyncio.wait_for(host.begun.wait(), 10)

        async with host.up():
            with pytest.raises(RemoteError) as caught:
                await asyncio.wait_for(call, 20)

        assert caught.value.code == ErrorCode.INTERRUPTED
        assert len(host.runs) == 1


async def test_a_command_that_waited_in_the_queue_is_run_when_the_agent_comes(mint: Mint, host: Host) -> None:
    async with caller_of(mint("console")) as caller:
        call = asyncio.ensure_future(caller.call(host.address.user, VmPause(vm="vm-1"), Done))
        await asyncio.sleep(0)

        async with host.up():
            await asyncio.wait_for(call, 20)

        assert len(host.runs) == 1


async def test_a_command_whose_deadline_has_passed_is_not_run(mint: Mint, host: Host) -> None:
    async with caller_of(mint("console")) as caller:
        with pytest.raises(CallTimeout, match="does not answer") as caught:
            await caller.call(host.address.user, VmPause(vm="vm-1"), Done, timeout_s=0.2)
        assert not caught.value.accepted

        async with host.up():
            await caller.call(host.address.user, Ping(), Done)

        assert host.runs == []


async def test_a_long_command_is_accepted_first_and_its_silence_is_told_apart(mint: Mint, host: Host) -> None:
    async with host.up(), caller_of(mint("console")) as caller:
        with pytest.raises(CallTimeout, match="has not finished") as caught:
            await caller.call(host.address.user, VmResume(vm="vm-1"), Done, timeout_s=1.0)

        assert caught.value.accepted
        host.go.set()


async def test_an_agent_that_is_not_there_at_all_is_told_apart(mint: Mint) -> None:
    async with caller_of(mint("console")) as caller:
        with pytest.raises(Unroutable, match="there is no host-nobody"):
            await caller.call("host-nobody", Ping(), Done)


async def test_an_agent_that_does_not_answer_is_told_apart(
    mint: Mint, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_module, "ACCEPT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(caller_module, "STATE_EVERY_S", 0.1)
    async with caller_of(mint("console")) as caller:
        with pytest.raises(CallTimeout, match="the agent is down or cut off"):
            await caller.call(host.address.user, VmPause(vm="vm-1"), Done)


async def test_an_answer_lost_on_the_way_is_asked_for(mint: Mint, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "STATE_EVERY_S", 0.2)
    async with host.up() as responder, caller_of(mint("console")) as caller:
        call = asyncio.ensure_future(caller.call(host.address.user, VmResume(vm="vm-1"), Done))
        await asyncio.wait_for(host.begun.wait(), 10)
        send, lost = responder.send_to, []

        async def lose_the_first(principal: str, suffix: str, message: Message) -> None:
            if isinstance(message, Done) and not lost:
                lost.append(message)
                return
            await send(principal, suffix, message)

        monkeypatch.setattr(responder, "send_to", lose_the_first)
        host.go.set()

        await asyncio.wait_for(call, 10)

        assert len(lost) == 1


async def test_a_handler_that_breaks_is_an_answer_and_the_agent_lives_on(mint: Mint, host: Host) -> None:
    async with host.up(), caller_of(mint("console")) as caller:
        with pytest.raises(RemoteError, match="fell over") as caught:
            await caller.call(host.address.user, VmReset(vm="vm-1"), Done)

        assert caught.value.code == ErrorCode.INTERNAL
        await caller.call(host.address.user, Ping(), Done)


async def test_an_op_that_the_agent_does_not_take_is_refused_counted_and_put_aside(mint: Mint, host: Host) -> None:
    async with host.up() as responder, caller_of(mint("console")) as caller:
        with pytest.raises(RemoteError, match="does not take") as caught:
            await caller.call(host.address.user, VmList(), Vms)

        assert caught.value.code == ErrorCode.UNSUPPORTED
        assert responder.refused == {"unknown_op": 1}


class Warp(Command, frozen=True, kw_only=True, tag="vm.warp"):
    """A command of a version to come."""

    vm: str


async def test_who_sends_what_an_older_agent_does_not_know_hears_so_at_once(mint: Mint, host: Host) -> None:
    async with host.up() as responder, caller_of(mint("console")) as caller:
        with pytest.raises(RemoteError, match=r"does not take vm\.warp") as caught:
            await caller.call(host.address.user, Warp(vm="vm-1"), Done)

        assert caught.value.code == ErrorCode.UNSUPPORTED
        assert "update it" in caught.value.hint
        assert responder.refused == {"undecodable": 1}
        await caller.call(host.address.user, Ping(), Done)


async def test_bytes_that_are_no_message_are_put_aside_and_the_agent_lives_on(mint: Mint, host: Host) -> None:
    console = mint("console")
    async with host.up() as responder, Connection(console, name="raw") as raw:
        await raw.publish("vc.down", queue_of(host.address.user), b"\xc1 garbage")

        async with caller_of(console) as caller:
            await caller.call(host.address.user, Ping(), Done)
        assert responder.refused == {"undecodable": 1}


async def test_what_is_bad_in_a_bundle_takes_nothing_of_it_along(mint: Mint, host: Host) -> None:
    adapter = mint("adapter")
    pings = [VmPause(vm="vm-1"), VmPause(vm="vm-1")]
    bodies = [encode(pings[0]), b"\x80", encode(pings[1]), b"\x80"]
    vm = Host(mint("vm"), host.directory)
    async with (
        vm.up(senders=frozenset({Kind.ADAPTER}), bundles=True) as responder,
        Connection(adapter, name="raw") as raw,
    ):
        await raw.publish("vc.down", queue_of(vm.address.user), bundle(bodies))
        await raw.publish("vc.down", queue_of(vm.address.user), bundle(bodies))
        await until(lambda: responder.refused["undecodable"] == 4 and len(vm.runs) == 2)

        assert vm.runs == [ping.id for ping in pings]


async def test_a_forged_answer_is_dropped_and_counted(mint: Mint, host: Host) -> None:
    console, stranger = mint("console"), mint("vm")
    async with host.up(), caller_of(console) as caller, Connection(stranger, name="stranger") as forger:
        command = VmResume(vm="vm-1")
        call = asyncio.ensure_future(caller.call(host.address.user, command, Done))
        await asyncio.wait_for(host.begun.wait(), 10)

        key = f"{stranger.user}.reply.{console.user}-{caller.suffix}"
        await forger.publish("vc.up", key, encode(Done(call=command.id)))
        await forger.publish("vc.up", key, encode(Done(call="some-other-call")))
        await forger.publish("vc.up", key, b"\xc1")
        await until(lambda: sum(caller.refused.values()) == 3)

        assert not call.done()
        assert caller.refused == {"wrong_sender": 1, "no_such_call": 1, "undecodable": 1}
        host.go.set()
        await asyncio.wait_for(call, 10)


async def test_a_command_that_waits_for_the_servers_time_is_not_said_to_be_unknown(mint: Mint, host: Host) -> None:
    async with host.up() as responder, caller_of(mint("console")) as caller:
        responder._clock.forget()
        command = VmPause(vm="vm-1")
        call = asyncio.ensure_future(caller.call(host.address.user, command, Done))
        await until(lambda: command.id in responder._pondered)

        with pytest.raises(CallTimeout):
            await caller.call(host.address.user, CommandState(command=command.id), Done, timeout_s=0.5)
        responder._clock.learn(0)

        await asyncio.wait_for(call, 10)
        assert host.runs == [command.id]
