"""What rides on a carrier rides on each: calls, commands with output, files and jobs, also when the way breaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.delivery import Delivery
from broker.errors import RemoteError, Unroutable
from broker.inbound import Letter, take_in
from broker.outbound import deliver
from broker.routes import down, queue_of
from broker.rpc import Call, Handler, Journal, Responder, ServerClock, Uplink
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from broker.rpc.execution import Execution
from broker.transfer import Transfers, into_file
from broker.transfer.sending import digest_file
from guest_agent.execs import Execs
from guest_agent.files import ConsoleFiles
from guest_agent.job_loop import JobLoop, Timing
from guest_agent.wall_clock import WallClock
from schemas.envelope import Done, Message, Reply
from schemas.execs import ExecRun, Stream
from schemas.files import FileGet, FileOffer, GuestFile
from schemas.jobs import JobAssign, JobCompletion, JobCompletionAnswer, JobRequest, Machine, Outcome
from schemas.vms import VmPause, VmReset, VmResume
from tests.broker.carriers import Ends, Mint, ends_on
from tests.broker.polling import until
from tests.unit.guests import Guest

CARRIERS = ("memory", "road", "amqp")


@pytest.fixture(params=CARRIERS)
async def ends(request: pytest.FixtureRequest, mint: Mint, tmp_path: Path) -> AsyncIterator[Ends]:
    """A console and a VM."""
    async with ends_on(request.param, mint("console"), mint("vm"), tmp_path) as made:
        yield made


@pytest.fixture(params=CARRIERS)
async def centre(request: pytest.FixtureRequest, mint: Mint, tmp_path: Path) -> AsyncIterator[Ends]:
    """A job adapter and a VM."""
    async with ends_on(request.param, mint("adapter", f"job-{secrets.token_hex(4)}"), mint("vm"), tmp_path) as made:
        yield made


class Agent:
    """Commands of a VM's agent: pause is done at once, resume when it is let go, reset never."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal(directory / "journal")
        self.ran: list[str] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def pause(self, call: Call, message: VmPause) -> Reply:
        self.ran.append(message.id)
        return Done(call=message.id)

    async def resume(self, call: Call, message: VmResume) -> Reply:
        self.ran.append(message.id)
        self.begun.set()
        await self.go.wait()
        return Done(call=message.id)

    async def reset(self, call: Call, message: VmReset) -> Reply:
        raise ValueError("it fell over")

    def handlers(self) -> dict[type[Message], Handler]:
        return {
            VmPause: Handler(run=self.pause),
            VmResume: Handler(run=self.resume),
            VmReset: Handler(run=self.reset),
        }


@asynccontextmanager
async def serving(ends: Ends, directory: Path, handlers: dict[type[Message], Handler]) -> AsyncIterator[Responder]:
    """Have the far end answer."""
    journal = Journal(directory / "journal")
    journal.open()
    responder = Responder(ends.far, journal, handlers, clock=wall_clock())
    await ends.far.consume(queue_of(ends.far.user), responder.on_delivery, prefetch=64, bundles=True)
    try:
        yield responder
    finally:
        await responder.close()
        await journal.close()


async def calling(ends: Ends) -> Caller:
    caller = Caller(ends.near)
    await caller.open(ends.near.user)
    return caller


async def test_a_command_is_run_once_and_answered_as_often_as_it_comes(ends: Ends, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    async with serving(ends, tmp_path, agent.handlers()):
        caller, command = await calling(ends), VmPause(vm="vm-1")

        answers = [await caller.call(ends.far.user, command, Done) for _ in range(3)]

    assert {answer.call for answer in answers} == {command.id}
    assert agent.ran == [command.id]


async def test_an_agents_no_is_told(ends: Ends, tmp_path: Path) -> None:
    async with serving(ends, tmp_path, Agent(tmp_path).handlers()):
        caller = await calling(ends)

        with pytest.raises(RemoteError, match="it fell over"):
            await caller.call(ends.far.user, VmReset(vm="vm-1"), Done)


async def test_nobody_there_is_told_at_once(ends: Ends) -> None:
    caller = await calling(ends)

    with pytest.raises(Unroutable):
        await caller.call("vm-nobody", VmPause(vm="vm-1"), Done)


async def test_an_answer_comes_though_the_way_broke_meanwhile(ends: Ends, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    async with serving(ends, tmp_path, agent.handlers()):
        caller, command = await calling(ends), VmResume(vm="vm-1")
        call = asyncio.ensure_future(caller.call(ends.far.user, command, Done))
        async with asyncio.timeout(15):
            await agent.begun.wait()
        await ends.cut()
        agent.go.set()

        async with asyncio.timeout(30):
            answer = await call

    assert (answer.call, agent.ran) == (command.id, [command.id])


async def test_what_was_not_settled_comes_again(ends: Ends) -> None:
    came: list[Delivery] = []
    await ends.far.consume(queue_of(ends.far.user), came.append)
    saying = asyncio.ensure_future(deliver(ends.near, down(ends.far.user), VmPause(vm="vm-1")))
    await until(lambda: came)
    await ends.cut()
    await until(lambda: len(came) == 2)
    for delivery in came:
        delivery.ack()

    async with asyncio.timeout(15):
        await saying
    letters = [take_in(delivery) for delivery in came]

    assert letters[0] == letters[1]
    assert isinstance(letters[0], Letter)
    assert letters[0].sender == ends.near.user


async def test_a_commands_output_comes_whole_and_in_order(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(content := os.urandom(5_000_000))
    came = bytearray()

    async def take(stream: Stream, data: bytes) -> None:
        came.extend(data)

    async with serving(ends, tmp_path, Execs(tmp_path / "files").handlers()):
        caller = await calling(ends)
        command = ExecRun(command=["cat", str(tmp_path / "out")])
        async with asyncio.timeout(60):
            ended = await Execution(ends.near, caller, ends.far.user, command, take).run()

    assert (ended.exit_status, bytes(came) == content) == (0, True)


async def test_files_go_both_ways_though_the_way_breaks(ends: Ends, tmp_path: Path) -> None:
    source, back, area = tmp_path / "source", tmp_path / "back", tmp_path / "area"
    area.mkdir()
    source.write_bytes(content := os.urandom(6_000_000))
    far, caller = Transfers(ends.far), await calling(ends)
    files = ConsoleFiles(far, area, tmp_path / "partial")

    def on_file(delivery: Delivery) -> None:
        letter = take_in(delivery)
        delivery.ack()
        assert isinstance(letter, Letter)
        if not (isinstance(letter.message, FileOffer | FileGet) and files.on_opening(letter.sender, letter.message)):
            far.on_message(letter.sender, letter.message)

    await ends.far.consume(f"{queue_of(ends.far.user)}.files", on_file, prefetch=64)
    near = Transfers(ends.near, my_suffix=caller.suffix)
    caller.on_other = near.on_message
    size, sha256 = digest_file(source)
    offer = FileOffer(file=GuestFile(path="f"), size=size, sha256=sha256)
    sending = asyncio.ensure_future(near.send_file(source, offer, ends.far.user))
    await until(lambda: far.is_open(offer.id))
    await ends.cut()
    async with asyncio.timeout(60):
        await sending
        await near.fetch_file(FileGet(file=GuestFile(path="f")), into_file(back, tmp_path / "part"), ends.far.user)
    await files.close()

    assert hashlib.sha256((area / "f").read_bytes()).hexdigest() == sha256
    assert back.read_bytes() == content


class Centre:
    """Hands a job to the first who asks, and counts its end."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.outcomes: list[Outcome] = []

    async def listen(self) -> None:
        for queue in ("vc.requests", "vc.completions"):
            await self._ends.near.consume(queue, self._on_delivery, bundles=True, **self._ends.reading(queue))

    async def _on_delivery(self, delivery: Delivery) -> None:
        letter = take_in(delivery)
        delivery.ack()
        if not isinstance(letter, Letter) or letter.sender != self._ends.far.user:
            return
        match letter.message:
            case JobRequest() as request if not self.outcomes:
                job = JobAssign(job="site-a/j.1", attempt=1, slot=request.slot, executable="true")
                await deliver(self._ends.near, down(letter.sender), job)
            case JobCompletion() as ended:
                self.outcomes.append(ended.outcome)
                answer = JobCompletionAnswer(call=ended.id, job=ended.job, attempt=ended.attempt, counted=True)
                await deliver(self._ends.near, down(letter.sender), answer)


async def test_a_job_is_asked_for_run_and_answered_for(centre: Ends, tmp_path: Path) -> None:
    guest, adapter = Guest(tmp_path), Centre(centre)
    await adapter.listen()
    loop = JobLoop(
        Uplink(centre.far, lambda: 1),
        guest.resources,
        slots=1,
        machine=lambda: Machine(cpus=1, memory_mib=1, disk_mib=1, platform="p"),
        clock=ServerClock(),
        store=lambda output: guest.store,
        timing=Timing(),
        wall_clock=WallClock(is_ours=False),
    )
    async with serving(centre, tmp_path, loop.handlers()):
        working = asyncio.create_task(loop.run())
        await until(lambda: adapter.outcomes and guest.journal.ended, 60)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        guest.close()

    assert adapter.outcomes == [Outcome.DONE]
    assert loop.holding() == []
