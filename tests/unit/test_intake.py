"""The intake and what stands on it: who is answered, what fits a message, and when a lease may expire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from adapters.batch import MOST_MESSAGES, MOST_ROWS, batch_size
from adapters.errors import AlreadyTold, Conflict, LedgerError, LedgerUnavailable, NotFound, StoreError
from adapters.intake import BatchHandler, Intake
from adapters.job import calls as calls_module
from adapters.job.adapter import JobAdapter, kinds
from adapters.job.calls import ANSWERS, Calls
from adapters.job.lease_watch import LeaseWatch
from adapters.job.submission_checker import SubmissionChecker
from adapters.ledger import clock, orders, submissions, tables, tallies
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from broker.outbound import answer_of
from broker.routes import DEAD, DOWN, UP
from schemas.codec import MAX_TEXT, decode, encode
from schemas.description import Input, JobDescription
from schemas.envelope import MAX_BODY_BYTES, Failed, Message, Ping
from schemas.errors import DecodeError
from schemas.ids import Kind
from schemas.jobs import (
    AgentHello,
    AttemptRef,
    Holding,
    JobBeat,
    JobCompletion,
    JobRequest,
    LeaseMark,
    Machine,
    Outcome,
    OutputEntry,
    Phase,
)
from schemas.ledger import (
    AttemptRow,
    JobCancel,
    JobEvent,
    JobList,
    JobRecord,
    JobRow,
    Jobs,
    JobsChanged,
    JobShow,
    JobState,
    JobSubmit,
    JobVerdict,
    RegistryList,
)
from schemas.vms import HostFacts, HostInventory, VmState, VmStatus
from tests.broker.polling import until
from tests.contract.ledger_fixtures import fresh_sqlite
from tests.unit.posts import Post

BEAT = JobBeat(holding=[])
MACHINE = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="linux/x86_64")


@pytest.fixture
def wire() -> MemoryCarrier:
    return MemoryCarrier("adapter-job-1")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(fresh_sqlite(tmp_path))
    ledger.open()
    yield ledger
    ledger.close()


@pytest.fixture
def store(tmp_path: Path) -> FsspecStore:
    return FsspecStore(f"file://{tmp_path}/store")


@asynccontextmanager
async def running(
    wire: MemoryCarrier, ledger: Ledger, table: dict[type[Message], BatchHandler]
) -> AsyncIterator[Intake]:
    metrics = Metrics(wire.user, CollectorRegistry())
    writer = LedgerWriter(wire, ledger, metrics)
    intake = Intake(wire, writer, table, metrics, after=lambda tx: None)
    task = asyncio.create_task(intake.run())
    try:
        yield intake
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.close()


def answering(wire: MemoryCarrier, intake: Intake) -> Calls:
    return Calls(wire, intake._writer, intake.on_delivery)


def beats_by(room: Callable[[Tx, Any], Any]) -> dict[type[Message], BatchHandler]:
    return {JobBeat: BatchHandler(handle=room, senders=frozenset({Kind.VM}), light=True)}


async def test_what_waits_is_written_down_before_the_adapter_takes_its_turn(
    wire: MemoryCarrier, ledger: Ledger
) -> None:
    stall = threading.Event()

    def stalled(tx: Tx, items: Any) -> list[None]:
        stall.wait(5)
        return [None] * len(items)

    async with running(wire, ledger, beats_by(stalled)) as intake:
        post = Post("vm-a.beat", BEAT)
        intake.on_delivery(post.delivery)
        turn = asyncio.ensure_future(intake.emptied())
        await asyncio.sleep(0.05)
        was_done = turn.done()
        stall.set()
        await asyncio.wait_for(turn, 5)

    assert not was_done


async def test_a_turn_waits_for_a_ledger_that_is_away(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = ledger._run, []

    def away_at_first(engine: Any, work: Any) -> Any:
        tries.append(work)
        if len(tries) < 4:
            raise LedgerUnavailable("restarting")
        return run(engine, work)

    monkeypatch.setattr(ledger, "_run", away_at_first)
    monkeypatch.setattr("adapters.intake.AGAIN_S", 0.05)
    async with running(wire, ledger, beats_by(lambda tx, items: [None] * len(items))) as intake:
        post = Post("vm-a.beat", BEAT)
        intake.on_delivery(post.delivery)
        await asyncio.wait_for(intake.emptied(), 20)
        await until(lambda: post.acked)

    assert len(tries) >= 4


async def test_an_adapter_that_holds_beats_keeps_the_lease_clock_from_going_on(
    wire: MemoryCarrier, ledger: Ledger, store: FsspecStore
) -> None:
    """Two sweeps, each with its mark come back; the second finds the clock where the first left it."""
    adapter = JobAdapter(wire, ledger, store, Metrics(wire.user, CollectorRegistry()))
    watch = LeaseWatch(ledger.instance, most_gap_s=15)
    began_ms = ledger.read(lambda tx: tx.lease_now_ms)

    for _ in range(3):
        await adapter._sweep(watch)
    held_up_ms = ledger.read(lambda tx: tx.lease_now_ms)
    for _ in range(3):
        marks = [decode(body) for _, key, body in wire.sent if key.endswith(".beat")]
        read = [(ledger.instance, mark) for mark in marks if isinstance(mark, LeaseMark)]
        ledger.write_lightly(lambda tx, read=read: clock.mark_all(tx, read))
        await asyncio.sleep(0.02)
        await adapter._sweep(watch)

    assert held_up_ms == began_ms
    assert ledger.read(lambda tx: tx.lease_now_ms) > began_ms
    await adapter._writer.close()


async def test_a_large_array_holds_up_no_sweep_and_is_finished_between_them(
    wire: MemoryCarrier, ledger: Ledger, store: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its adapter was killed after the first portion; the next one's lease clock goes on meanwhile."""
    monkeypatch.setattr("adapters.ledger.arrays.PORTION", 10)
    job = JobDescription(id="many", executable="run.sh", array=1000)
    checked = submissions.check(JobSubmit(job=job), lambda digest: True)
    ledger.write(lambda tx: submissions.submit(tx, "site-a", checked))
    adapter = JobAdapter(wire, ledger, store, Metrics(wire.user, CollectorRegistry()))
    put_mark, at_marks = adapter._put_mark, []

    def made() -> int:
        return int(ledger.read(lambda tx: tx.execute(select(func.count()).select_from(tables.jobs)).scalar_one()))

    async def noting(watch: LeaseWatch) -> None:
        at_marks.append(made())
        await put_mark(watch)

    monkeypatch.setattr(adapter, "_put_mark", noting)
    await adapter._sweep(LeaseWatch(ledger.instance, most_gap_s=15))
    await until(lambda: made() == 1000, patience_s=60)

    assert at_marks[0] < 1000
    await adapter._writer.close()


async def test_a_message_that_the_ledger_cannot_take_is_kept_back_and_the_others_go_on(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the database has no memory for one: it is no fault of the message's, and nobody else waits for it."""
    monkeypatch.setattr("adapters.intake.AGAIN_S", 0.05)
    full = [True]

    def room(tx: Tx, items: Any) -> list[None]:
        if full[0] and any(sender == "vm-huge" for sender, _ in items):
            raise LedgerUnavailable("out of memory")
        return [None] * len(items)

    async with running(wire, ledger, beats_by(room)) as intake:
        huge, other = Post("vm-huge.beat", BEAT), Post("vm-a.beat", BEAT)
        for post in (huge, other):
            intake.on_delivery(post.delivery)
        await until(lambda: other.acked, 20)
        await asyncio.wait_for(intake.emptied(), 20)
        was_acked = huge.acked
        full[0] = False
        await until(lambda: huge.acked, 20)

    assert not was_acked
    assert wire.sent == []


async def test_a_store_that_hangs_holds_up_its_submitter_and_nobody_else(wire: MemoryCarrier, ledger: Ledger) -> None:
    hangs = threading.Event()

    def has_input(digest: str) -> bool:
        hangs.wait(10)
        return True

    checker = SubmissionChecker(has_input, patience_s=3.0)
    inputs = [Input(name="a", sha256="0" * 64)]
    async with running(wire, ledger, kinds(checker)) as intake:
        slow = Post("site-a.submit", JobSubmit(job=JobDescription(id="slow", executable="x", inputs=inputs)))
        beat = Post("vm-a.beat", BEAT)
        plain = Post("site-b.submit", JobSubmit(job=JobDescription(id="plain", executable="x")))
        for post in (slow, beat, plain):
            intake.on_delivery(post.delivery)
        await until(lambda: beat.acked and plain.acked, 20)
        was_acked = slow.acked
        await until(lambda: slow.acked, 20)
    hangs.set()
    checker.close()

    verdicts = {v.job: v for _, v in wire.sent_to(DOWN) if isinstance(v, JobVerdict)}
    assert not was_acked
    assert verdicts["plain"].accepted
    assert not verdicts["slow"].accepted
    assert "the store has not answered in 3 s; submit again later" in verdicts["slow"].reasons[0]


async def test_a_store_is_asked_for_the_inputs_of_a_job_together() -> None:
    """One after the other, 64 inputs at 100 ms each once took 6.4 s."""
    together = threading.Barrier(4)

    def has_input(digest: str) -> bool:
        together.wait(20)  # broken, and so an error, unless four ask at the same time
        return not digest.endswith("7")

    checker = SubmissionChecker(has_input)
    inputs = [Input(name=f"{n}", sha256=f"{n:064}") for n in range(8)]
    job = JobDescription(id="j", executable="x", inputs=[*inputs, Input(name="again", sha256=f"{7:064}")])
    found = await checker.check("site-a", JobSubmit(job=job))
    checker.close()

    assert [reason.partition(":")[0] for reason in found.reasons] == ["input '7'", "input 'again'"]


async def test_a_store_that_cannot_say_refuses_in_its_words(wire: MemoryCarrier, ledger: Ledger) -> None:
    def has_input(digest: str) -> bool:
        raise StoreError("store file:///srv: Input/output error")

    checker = SubmissionChecker(has_input)
    inputs = [Input(name="a", sha256="0" * 64)]
    async with running(wire, ledger, kinds(checker)) as intake:
        post = Post("site-a.submit", JobSubmit(job=JobDescription(id="j", executable="x", inputs=inputs)))
        intake.on_delivery(post.delivery)
        await until(lambda: post.acked, 20)
    checker.close()

    verdict = wire.sent_to(DOWN)[0][1]
    assert isinstance(verdict, JobVerdict)
    assert "Input/output error; submit again later, under the same id" in verdict.reasons[0]


@pytest.mark.parametrize("sender", ["once-x", "keys", "adapter-store-1"])
@pytest.mark.parametrize("body", [b"\xc1", encode(Ping()), encode(BEAT)], ids=["unreadable", "other", "beat"])
async def test_who_may_not_be_written_to_is_dead_lettered_in_silence(
    wire: MemoryCarrier, ledger: Ledger, sender: str, body: bytes
) -> None:
    post = Post(f"{sender}.enrol", body)

    async with running(wire, ledger, beats_by(lambda tx, items: [None])) as intake:
        intake.on_delivery(post.delivery)
        await until(lambda: post.acked)

    assert [where for where, _, _ in wire.sent] == [DEAD]


@pytest.mark.parametrize("sender", ["host-a", "vm-a", "site-a", "console-a"])
async def test_everybody_else_is_told_why(wire: MemoryCarrier, ledger: Ledger, sender: str) -> None:
    post = Post(f"{sender}.request", Ping())

    async with running(wire, ledger, beats_by(lambda tx, items: [None])) as intake:
        intake.on_delivery(post.delivery)
        await until(lambda: post.acked)

    assert [where for where, _, _ in wire.sent] == [DEAD, UP if sender == "console-a" else DOWN]


async def test_an_unreadable_message_is_dead_lettered_however_long_its_fault_is(
    wire: MemoryCarrier, ledger: Ledger
) -> None:
    body = msgspec.msgpack.encode({"op": "x" * (MAX_BODY_BYTES - 100)})
    post = Post("vm-a.request", body)

    async with running(wire, ledger, {}) as intake:
        intake.on_delivery(post.delivery)
        await until(lambda: post.acked)

    assert [where for where, _, _ in wire.sent] == [DEAD, DOWN]


def test_the_reason_of_a_long_fault_is_short() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(msgspec.msgpack.encode({"op": "x" * (MAX_BODY_BYTES - 100)}))

    assert len(caught.value.reason) < MAX_TEXT + 100


async def test_a_verdict_with_thousands_of_reasons_is_sent_and_its_batch_acknowledged(
    wire: MemoryCarrier, ledger: Ledger, store: FsspecStore
) -> None:
    inputs = [Input(name=f"input-{n}", sha256=f"{n:064x}") for n in range(1900)]
    submission = JobSubmit(job=JobDescription(id="many", executable="/bin/true", inputs=inputs))
    posts = [Post("site-a.submit", submission), Post("site-b.submit", submission)]

    async with running(wire, ledger, kinds(SubmissionChecker(store.has_input))) as intake:
        for post in posts:
            intake.on_delivery(post.delivery)
        await until(lambda: all(post.acked for post in posts), 20)

    answers = [answer for _, answer in wire.sent_to(DOWN)]
    assert len(answers) == 2
    assert isinstance(answers[0], JobVerdict)
    assert "the store has no file" in answers[0].reasons[0]
    assert answers[0].reasons[-1] == "and 1800 more like these"


def test_an_answer_that_does_not_fit_says_so() -> None:
    answer = decode(answer_of(JobVerdict(call="c", accepted=False, job="j", reasons=["x" * MAX_BODY_BYTES])))

    assert isinstance(answer, Failed)
    assert answer.call == "c"
    assert "over the limit" in answer.message


def _row(number: int) -> JobRow:
    return JobRow(number=number, job=f"site-a/j.{number + 1}", state=JobState.HELD, attempt=1, reason="é" * 3000)


@asynccontextmanager
async def asked(wire: MemoryCarrier, ledger: Ledger, question: Message) -> AsyncIterator[tuple[Post, Message]]:
    post = Post("console-a.call", question)
    async with running(wire, ledger, {}) as intake:
        await answering(wire, intake).on_delivery(post.delivery)
        ((_, answer),) = wire.sent_to(UP)
        yield post, answer


async def test_a_page_of_jobs_with_long_reasons_keeps_all_its_rows(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = [_row(number) for number in range(1000)]
    monkeypatch.setitem(ANSWERS, JobList, lambda tx, m: Jobs(call=m.id, jobs=page, counts={"held": 1000}))

    async with asked(wire, ledger, JobList(limit=1000)) as (post, answer):
        assert isinstance(answer, Jobs)
        assert [row.number for row in answer.jobs] == list(range(1000))
        assert post.acked == 1


async def test_a_job_with_a_long_history_is_shown_with_its_end(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [JobEvent(at_ms=n, attempt=1, event="e", noticed_by="x", detail="y" * 5000) for n in range(500)]
    attempts = [AttemptRow(attempt=n, state="failed", vm="vm-a", cause="z" * 1000) for n in (1, 2)]
    job = JobDescription(id="j", executable="/bin/true")
    said = {"description": job, "attempts": attempts, "events": events, "cause": "z" * 4000}
    monkeypatch.setitem(ANSWERS, JobShow, lambda tx, m: JobRecord(call=m.id, job=_row(1), **said))  # type: ignore[arg-type]

    async with asked(wire, ledger, JobShow(job="site-a/j.2")) as (post, answer):
        assert isinstance(answer, JobRecord)
        assert [event.at_ms for event in answer.events] == list(range(400, 500))
        assert len(answer.cause) < 200
        assert post.acked == 1


@pytest.mark.parametrize(
    ("give", "said"), [("too much", "over the limit"), ("nothing", "KeyError")], ids=["too-long", "broken"]
)
async def test_a_question_without_an_answer_is_refused_and_not_asked_again(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, give: str, said: str
) -> None:
    def answer_it(tx: Tx, message: Message) -> JobVerdict:
        long = {"too much": "x" * MAX_BODY_BYTES}[give]
        return JobVerdict(call=message.id, accepted=False, job="j", reasons=[long])

    monkeypatch.setitem(ANSWERS, RegistryList, answer_it)

    async with asked(wire, ledger, RegistryList()) as (post, answer):
        assert isinstance(answer, Failed)
        assert said in answer.message
        assert post.acked == 1


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (NotFound("job = 'x': no such job"), "`volcloud job list` shows the names"),
        (NotFound("vm = 'x': no such VM", "`volcloud vm list` shows them"), "`volcloud vm list` shows them"),
        (AlreadyTold("job = x: lyon was told", "submit it to lyon under a new name"), "submit it to lyon under"),
        (LedgerUnavailable("restarting"), "do the same again in a while"),
        (Conflict("a rule"), "look into the adapter's log"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_is_refused_comes_with_the_next_step_of_its_kind(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: LedgerError, step: str
) -> None:
    def refuse(tx: Tx, message: Message) -> JobVerdict:
        raise error

    monkeypatch.setitem(ANSWERS, RegistryList, refuse)

    async with asked(wire, ledger, RegistryList()) as (_, answer):
        assert isinstance(answer, Failed)
        assert answer.message == str(error)
        assert answer.hint.startswith(step)


@pytest.mark.parametrize(
    "too_much",
    [
        {"platform": "p" * 65},
        {"image": "i" * 129},
        {"boot_id": "b" * 65},
        {"agent_version": "v" * 65},
        {"python": "p" * 65},
        {"features": ["f" * 65]},
        {"features": ["f"] * 65},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_a_machine_says_of_itself_is_bounded(too_much: dict[str, Any]) -> None:
    fields = {"cpus": 1, "memory_mib": 1, "disk_mib": 1, "platform": "linux-x86_64"}

    msgspec.convert(fields, Machine)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields | too_much, Machine)


async def test_beats_are_taken_between_the_portions_of_a_long_order(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "PORTION", 10)
    job = JobDescription(id="many", executable="x", array=200)
    ledger.write(lambda tx: submissions.submit(tx, "site-a", submissions.check(JobSubmit(job=job), lambda _: True)))
    seen: list[int] = []

    def beat(tx: Tx, items: Any) -> list[None]:
        seen.append(tallies.of_all(tx).get("cancelled", 0))
        return [None] * len(items)

    async with running(wire, ledger, beats_by(beat)) as intake:
        order = Post("console-ada.call", JobCancel(job="many"))
        calls = asyncio.ensure_future(answering(wire, intake).on_delivery(order.delivery))
        while not calls.done():
            intake.on_delivery(Post("vm-a.beat", BEAT).delivery)
            await asyncio.sleep(0.001)
        await until(lambda: order.acked)

    (answer,) = [message for _, message in wire.sent_to(UP) if isinstance(message, JobsChanged)]
    assert (answer.changed, answer.more) == (200, False)
    assert [count for count in seen if 0 < count < 200]


async def test_an_order_that_takes_long_is_answered_in_part_and_goes_on_when_it_is_given_again(
    wire: MemoryCarrier, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "PORTION", 10)
    monkeypatch.setattr(calls_module, "ORDER_S", 0.0)
    job = JobDescription(id="many", executable="x", array=15)
    ledger.write(lambda tx: submissions.submit(tx, "site-a", submissions.check(JobSubmit(job=job), lambda _: True)))

    async with running(wire, ledger, {}) as intake:
        for _ in range(2):
            order = Post("console-ada.call", JobCancel(job="many"))
            await answering(wire, intake).on_delivery(order.delivery)

    answers = [message for _, message in wire.sent_to(UP) if isinstance(message, JobsChanged)]
    assert [(answer.changed, answer.more) for answer in answers] == [(10, True), (5, False)]


def test_what_a_batch_makes_the_ledger_write_is_bounded_and_not_its_messages_alone() -> None:
    def array(jobs: int) -> JobSubmit:
        return JobSubmit(job=JobDescription(id="j", executable="x", array=jobs))

    assert batch_size([]) == 0
    assert batch_size([BEAT] * 1000) == MOST_MESSAGES
    assert batch_size([array(100_000), BEAT]) == 1
    assert batch_size([BEAT, BEAT, array(100_000), BEAT]) == 2
    assert batch_size([array(900)] * 5) == MOST_ROWS // 900
    assert batch_size([array(1)] * 5) == 5


def test_ends_that_have_left_thousands_of_files_are_written_a_few_at_a_time() -> None:
    entry = OutputEntry(name="x", size=1, sha256="a" * 64)
    large = JobCompletion(job="site-a/j.1", attempt=1, outcome=Outcome.DONE, outputs=[entry] * 6000)

    assert 1 <= batch_size([large] * 40) <= 4


NAMED = [AttemptRef(job="site-a/j.1", attempt=1)] * 4096
STATUS = VmStatus(
    vm="vm-a", name="a", state=VmState.RUNNING, generation=1, hypervisor="fake", cpus=1, memory_mib=1, disk_mib=1024
)
HOST = HostFacts(hostname="pc", platform="linux", cpus=1, memory_mib=1, free_disk_mib=1, hypervisor="fake")


@pytest.mark.parametrize(
    "large",
    [
        JobBeat(holding=[Holding(job="site-a/j.1", attempt=1, phase=Phase.RUNNING)] * 4096),
        AgentHello(machine=MACHINE, holding=NAMED),
        JobRequest(slot=0, machine=MACHINE, holding=NAMED),
        JobCompletion(
            job="site-a/j.1",
            attempt=1,
            outcome=Outcome.DONE,
            request=JobRequest(slot=0, machine=MACHINE, holding=NAMED),
        ),
        HostInventory(host=HOST, vms=[STATUS] * 1000, at_ms=1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_that_names_thousands_has_a_transaction_almost_to_itself(large: Message) -> None:
    assert batch_size([large] * 40) <= 2
    assert batch_size([BEAT, large, BEAT]) <= 3
