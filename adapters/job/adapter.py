"""The job adapter put together: submissions, requests, beats, inventories, calls; leases and the outbox swept.

Every sweep it takes its turn: what it had been given is written down, the lease clock goes on as far as the beats have
been read by everybody (see ``lease_watch``), what is due by that clock is done, and a mark is put among the beats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from adapters.config import JobAdapterConfig
from adapters.errors import LedgerError
from adapters.intake import Answers, BatchHandler, Intake
from adapters.job.calls import Calls
from adapters.job.lease_watch import Advice, LeaseWatch
from adapters.job.purger import Purger, keep_of
from adapters.job.rejected import Rejected
from adapters.job.site_asks import SiteAsks
from adapters.job.submission_checker import SubmissionChecker
from adapters.ledger import assignments, clock, inventory, leases, queries, requests, submissions, timetable
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.retention import Keep
from adapters.ledger.submissions import CheckedSubmission
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import HOST_STATES, VM_STATES, Metrics
from adapters.storage.contract import Store
from adapters.storage.store import FsspecStore
from broker.address import read_address
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.outbound import send
from broker.routes import up
from schemas.codec import clip
from schemas.envelope import Failed, Message, Reply, ServerTime
from schemas.errors import ErrorCode
from schemas.ids import Kind
from schemas.jobs import AgentHello, JobBeat, JobRequest, JobWithdraw, LeaseMark
from schemas.ledger import JobState, JobSubmit, JobVerdict
from schemas.vms import HostBye, HostInventory

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

#: Messages taken and not yet acknowledged, a queue.
PREFETCH = 500
#: Reasons that a verdict names; more are counted.
MOST_REASONS = 100
_ONE_MACHINE = "a VM has one kind of machine until it is made anew: look at what its agent says of it"
#: So many sweeps count at most of the time between two marks: in what is longer guests could not be heard.
MOST_SWEEPS_A_GAP = 3
#: How long a sweep waits for the broker to confirm a mark, seconds.
MARK_CONFIRM_S = 5.0


class JobAdapter:
    """One instance; several share the queues."""

    def __init__(
        self,
        connection: Carrier,
        ledger: Ledger,
        store: Store,
        metrics: Metrics,
        keep: Keep | None = None,
        retain_s: float = 3600.0,
    ) -> None:
        self._connection, self._ledger, self._metrics = connection, ledger, metrics
        self._checker = SubmissionChecker(store.has_input)
        self._writer = LedgerWriter(connection, ledger, metrics)
        self._intake = Intake(connection, self._writer, kinds(self._checker), metrics, after=assignments.match)
        self._calls = Calls(connection, self._writer, self._intake.on_delivery)
        self._site_asks = SiteAsks(connection, self._writer, self._intake.refuse)
        self._purger = Purger(self._writer, keep or Keep(), retain_s)

    async def run(self, sweep_s: float) -> None:
        """Serve until cancelled."""
        consume, gate, take = self._connection.consume, self._intake.admission.gate, self._intake.on_delivery
        for queue in ("vc.submissions", "vc.requests", "vc.beats"):
            await consume(queue, take, prefetch=PREFETCH, gate=gate(queue))
        await consume("vc.inventory", take, prefetch=PREFETCH, once=True, gate=gate("vc.inventory"))
        rejected = Rejected(self._intake.dead_letters)
        await consume("vc.rejected", rejected.on_delivery, prefetch=50, gate=gate("vc.rejected"))
        await consume("vc.calls", self._calls.on_delivery, prefetch=50)
        await consume("vc.asks", self._site_asks.door.on_delivery, prefetch=PREFETCH, gate=gate("vc.asks"))
        await self._enter()
        await self._connection.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(), name="ledger intake")
                group.create_task(self._sweeps(sweep_s), name="sweeps")
                group.create_task(self._purger.run(), name="retention")
        finally:
            await self._site_asks.door.close()
            await self._connection.close()
            self._checker.close()
            await self._leave()
            await self._writer.close()

    async def _enter(self) -> None:
        """Hold up the lease clock from now on. Waits for a ledger that takes no write: till then no beat is taken."""
        for wait_s in backoff(0.2, 10.0):
            try:
                await self._writer.write(partial(clock.enter, kind=clock.JOB))
                return
            except LedgerError as error:
                log.error("ledger takes no write, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)

    async def _leave(self) -> None:
        """Hold up the lease clock no longer: whatever we had been given is the broker's again."""
        try:
            await self._writer.write(lambda tx: clock.leave(tx, [tx.instance]))
        except LedgerError as error:
            log.warning("not signed off, the lease clock waits for a while", extra={"why": str(error)})

    async def _sweeps(self, every_s: float) -> None:
        watch = LeaseWatch(self._ledger.instance, most_gap_s=MOST_SWEEPS_A_GAP * every_s)
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._sweep(watch)
            except Exception:
                log.exception("sweep failed, again soon")
                self._metrics.sweep_failed()

    async def _sweep(self, watch: LeaseWatch) -> None:
        await self._intake.sweep()
        await self._intake.emptied()
        found = await self._writer.write(_take_turn, light=True)
        advice = watch.look(found, time.monotonic())
        is_more = await self._writer.write(partial(_follow, found.kept_by, advice))
        while is_more:
            is_more = await self._writer.write(_keep_time)
        await self._put_mark(watch)
        self._show(await self._writer.read(queries.stats))
        await asyncio.to_thread(self._ledger.tidy)

    async def _put_mark(self, watch: LeaseWatch) -> None:
        """Put a mark among the beats, as often as it takes while their queue is full; one that is not taken in time
        says nothing."""
        mark, ends_s = LeaseMark(), time.monotonic() + MARK_CONFIRM_S
        watch.sent(mark.id, time.monotonic())
        for wait_s in backoff(0.05, 0.5):
            sent = send(self._connection, up(self._connection.user, "beat"), mark)
            await asyncio.wait({sent}, timeout=max(0.0, ends_s - time.monotonic()))
            if sent.done() and sent.exception() is None:
                return
            if time.monotonic() + wait_s > ends_s:
                break
            await asyncio.sleep(wait_s)
        watch.not_taken(mark.id)
        log.info("mark not taken, the lease clock waits", extra={"link": self._connection.is_up})

    def _show(self, stats: queries.Stats) -> None:
        metrics = self._metrics
        metrics.set_state(metrics.states, stats.jobs, tuple(JobState))
        metrics.set_state(metrics.vms, stats.vms, VM_STATES)
        metrics.set_state(metrics.hosts, stats.hosts, HOST_STATES)
        metrics.requests.set(stats.requests)
        metrics.oldest_wait.set(stats.oldest_wait_ms / 1000)
        metrics.leases.set(stats.leases)
        metrics.outbox.set(stats.outbox)


def kinds(checker: SubmissionChecker) -> dict[type[Message], BatchHandler]:
    """What a job adapter takes into the ledger, in the order in which a batch is worked through."""
    vm, host = frozenset({Kind.VM}), frozenset({Kind.HOST})
    feeders = frozenset({Kind.SITE, Kind.CONSOLE})
    return {
        JobSubmit: BatchHandler(handle=_submit, prepare=checker.check, senders=feeders),
        AgentHello: BatchHandler(handle=_each(_hello), senders=vm),
        JobRequest: BatchHandler(handle=_ask, senders=vm),
        JobWithdraw: BatchHandler(handle=_withdraw, senders=vm),
        JobBeat: BatchHandler(handle=leases.renew_all, senders=vm, light=True),
        LeaseMark: BatchHandler(handle=clock.mark_all, senders=frozenset({Kind.ADAPTER}), light=True),
        HostInventory: BatchHandler(handle=_each(_report), senders=host, light=True),
        HostBye: BatchHandler(handle=_each(inventory.bye), senders=host, light=True),
    }


def _each(one: Callable[[Tx, str, M], Reply | None]) -> Callable[[Tx, Sequence[tuple[str, M]]], Answers]:
    return lambda tx, items: [one(tx, sender, message) for sender, message in items]


def _submit(tx: Tx, items: Sequence[tuple[str, CheckedSubmission]]) -> Answers:
    return [_brief(verdict) for verdict in submissions.submit_all(tx, items)]


def _brief(verdict: JobVerdict) -> JobVerdict:
    """Name the first of many reasons, so that a verdict always fits a message."""
    reasons = [clip(reason) for reason in verdict.reasons[:MOST_REASONS]]
    if more := len(verdict.reasons) - len(reasons):
        reasons.append(f"and {more} more like these")
    return msgspec.structs.replace(verdict, reasons=reasons)


def _ask(tx: Tx, items: Sequence[tuple[str, JobRequest]]) -> Answers:
    requests.ask_all(tx, items)
    return [_refusal(tx, vm, message) for vm, message in items]


def _hello(tx: Tx, vm: str, message: AgentHello) -> Reply | None:
    requests.hello(tx, vm, message)
    return _refusal(tx, vm, message)


def _refusal(tx: Tx, vm: str, message: Message) -> Reply | None:
    """Tell a guest why it is given nothing; silence where all is well."""
    why = tx.refusals.get(vm)
    return Failed(call=message.id, code=ErrorCode.BAD_REQUEST, message=why, hint=_ONE_MACHINE) if why else None


def _withdraw(tx: Tx, items: Sequence[tuple[str, JobWithdraw]]) -> Answers:
    requests.withdraw_all(tx, items)
    return [None] * len(items)


def _report(tx: Tx, host: str, message: HostInventory) -> Reply:
    inventory.report(tx, host, message)
    return ServerTime(call=message.id, server_time_ms=tx.now_ms)


def _take_turn(tx: Tx) -> clock.Readers:
    clock.take_turn(tx, clock.JOB)
    return clock.readers(tx)


def _follow(kept_by: str, advice: Advice, tx: Tx) -> bool:
    """Let the clock go on, do what is due, and match: a beat or an inventory may have unblocked requests.

    Says whether more is due.
    """
    clock.leave(tx, advice.gone)
    if advice.takes_over:
        clock.keep(tx, kept_by)
    if advice.step_s:
        clock.go_on(tx, int(advice.step_s * 1000))
    is_more = timetable.keep(tx)
    assignments.match_all(tx)
    return is_more


def _keep_time(tx: Tx) -> bool:
    """Do more of what is due, after others have written."""
    is_more = timetable.keep(tx)
    assignments.match(tx)
    return is_more


async def run(config: JobAdapterConfig) -> None:
    """Run an adapter with this configuration until cancelled."""
    address = read_address(Path(config.credential))
    metrics = Metrics(address.user, CollectorRegistry())
    policy = Policy(
        lease_s=config.lease_s,
        beat_s=config.beat_s,
        pause_limit_s=config.pause_limit_s,
        vms_of_host=config.vms_of_host,
        waiting_of_owner=config.waiting_of_owner,
        staging_s=config.staging_s,
    )
    ledger = Ledger(config.ledger, instance=address.user, policy=policy)
    await asyncio.to_thread(ledger.open)
    connection = Connection(address, name=address.user, wait_most_s=CENTRE_WAIT_MOST_S)
    try:
        store = FsspecStore(config.store, ledger.served_s)
        adapter = JobAdapter(connection, ledger, store, metrics, keep_of(config), config.retain_s)
        # Last: who gets an answer takes the adapter for one that works.
        metrics.serve(config.metrics_port, config.metrics_address)
        await adapter.run(config.sweep_s)
    finally:
        await asyncio.to_thread(ledger.close)
