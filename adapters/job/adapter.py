"""The job adapter put together: submissions, requests, beats, inventories, calls; leases and the outbox swept.

The lease clock runs only while beats are being consumed: after a start, a reconnect or a backlog nothing expires for
one whole lease.
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
from adapters.intake import Answers, Intake, Kind
from adapters.job.calls import Calls
from adapters.job.caretaker import Caretaker, keep_of
from adapters.job.rejected import Rejected
from adapters.ledger import assignments, inventory, leases, queries, requests, submissions
from adapters.ledger.engine import Ledger
from adapters.ledger.retention import Keep
from adapters.ledger.transaction import Policy, Tx
from adapters.metrics import VM_STATES, Metrics
from adapters.storage.store import Store
from broker.address import read_address
from broker.connection import Connection
from schemas.codec import clip
from schemas.envelope import Message, Reply, ServerTime
from schemas.jobs import AgentHello, JobBeat, JobRequest, JobWithdraw
from schemas.ledger import JobState, JobSubmit, JobVerdict
from schemas.vms import HostBye, HostInventory

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

#: Messages taken and not yet acknowledged, a queue.
PREFETCH = 500
#: Reasons that a verdict names; more are counted.
MOST_REASONS = 100


class JobAdapter:
    """One instance; several share the queues."""

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        store: Store,
        policy: Policy,
        metrics: Metrics,
        keep: Keep | None = None,
        retain_s: float = 3600.0,
    ) -> None:
        self._connection, self._ledger, self._metrics, self._policy = connection, ledger, metrics, policy
        self._intake = Intake(connection, ledger, kinds(store), metrics, after=assignments.match, slow_s=policy.beat_s)
        self._calls = Calls(connection, self._intake)
        self._caretaker = Caretaker(self._intake, keep or Keep(), retain_s)

    async def run(self, sweep_s: float) -> None:
        """Serve until cancelled."""
        for queue in ("vc.submissions", "vc.requests", "vc.beats"):
            await self._connection.consume(queue, self._intake.on_delivery, prefetch=PREFETCH)
        await self._connection.consume("vc.inventory", self._intake.on_delivery, prefetch=PREFETCH, once=True)
        await self._connection.consume("vc.rejected", Rejected(self._intake.burials).on_delivery, prefetch=50)
        await self._connection.consume("vc.calls", self._calls.on_delivery, prefetch=50)
        await self._connection.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(), name="ledger intake")
                group.create_task(self._sweeps(sweep_s), name="sweeps")
                group.create_task(self._caretaker.run(), name="retention")
        finally:
            await self._connection.close()
            await self._intake.close()

    async def _sweeps(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._sweep()
            except LedgerError as error:
                log.error("sweep failed, again soon", extra={"why": str(error)})

    async def _sweep(self) -> None:
        await self._intake.sweep()
        await self._intake.write(self._expire_or_match)
        self._show(await self._intake.read(queries.stats))
        await asyncio.to_thread(self._ledger.tidy)

    def _expire_or_match(self, tx: Tx) -> None:
        """Decided in the writer thread: whatever held this transaction up held beats up as well."""
        (_expire if self._may_expire() else assignments.match_all)(tx)

    def _may_expire(self) -> bool:
        """Whether beats have been consumed without a break or a backlog for one whole lease."""
        since = (self._connection.up_since, self._intake.clear_since)
        now = time.monotonic()
        return all(moment is not None and now - moment >= self._policy.lease_s for moment in since)

    def _show(self, stats: queries.Stats) -> None:
        metrics = self._metrics
        metrics.set_state(metrics.states, stats.jobs, tuple(JobState))
        metrics.set_state(metrics.vms, stats.vms, VM_STATES)
        metrics.set_state(metrics.hosts, stats.hosts, ("present", "absent"))
        metrics.requests.set(stats.requests)
        metrics.oldest_wait.set(stats.oldest_wait_ms / 1000)
        metrics.leases.set(stats.leases)
        metrics.outbox.set(stats.outbox)


def kinds(store: Store) -> dict[type[Message], Kind]:
    """What a job adapter takes into the ledger, in the order in which a batch is worked through."""
    vm, host = frozenset({"vm"}), frozenset({"host"})
    feeders = frozenset({"site", "console"})
    return {
        JobSubmit: Kind(room=partial(_submit, store), senders=feeders),
        AgentHello: Kind(room=_each(requests.hello), senders=vm),
        JobRequest: Kind(room=_ask, senders=vm),
        JobWithdraw: Kind(room=_withdraw, senders=vm),
        JobBeat: Kind(room=leases.renew_all, senders=vm, light=True),
        HostInventory: Kind(room=_each(_report), senders=host, light=True),
        HostBye: Kind(room=_each(inventory.bye), senders=host, light=True),
    }


def _each(one: Callable[[Tx, str, M], Reply | None]) -> Callable[[Tx, Sequence[tuple[str, M]]], Answers]:
    return lambda tx, items: [one(tx, sender, message) for sender, message in items]


def _submit(store: Store, tx: Tx, items: Sequence[tuple[str, JobSubmit]]) -> Answers:
    return [_brief(verdict) for verdict in submissions.submit_all(tx, items, store.has_input)]


def _brief(verdict: JobVerdict) -> JobVerdict:
    """Name the first of many reasons, so that a verdict always fits a message."""
    reasons = [clip(reason) for reason in verdict.reasons[:MOST_REASONS]]
    if more := len(verdict.reasons) - len(reasons):
        reasons.append(f"and {more} more like these")
    return msgspec.structs.replace(verdict, reasons=reasons)


def _ask(tx: Tx, items: Sequence[tuple[str, JobRequest]]) -> Answers:
    requests.ask_all(tx, items)
    return [None] * len(items)


def _withdraw(tx: Tx, items: Sequence[tuple[str, JobWithdraw]]) -> Answers:
    requests.withdraw_all(tx, items)
    return [None] * len(items)


def _report(tx: Tx, host: str, message: HostInventory) -> Reply:
    inventory.report(tx, host, message)
    return ServerTime(call=message.id, server_time_ms=tx.now_ms)


def _expire(tx: Tx) -> None:
    """Expire, then match whatever came: an inventory may have unblocked requests, and its transaction does not."""
    leases.expire(tx)
    assignments.match_all(tx)


async def run(config: JobAdapterConfig) -> None:
    """Run an adapter with this configuration until cancelled."""
    address = read_address(Path(config.credential))
    metrics = Metrics(address.user, CollectorRegistry())
    metrics.serve(config.metrics_port, config.metrics_address)
    policy = Policy(lease_s=config.lease_s, beat_s=config.beat_s, pause_limit_s=config.pause_limit_s)
    ledger = Ledger(config.ledger, instance=address.user, policy=policy)
    await asyncio.to_thread(ledger.open)
    connection = Connection(address, name=address.user)
    try:
        await JobAdapter(
            connection, ledger, Store(config.store), policy, metrics, keep_of(config), config.retain_s
        ).run(config.sweep_s)
    finally:
        await asyncio.to_thread(ledger.close)
