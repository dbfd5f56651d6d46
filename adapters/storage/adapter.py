"""The storage adapter put together: transfers, and the ends of jobs.

An end that carries small outputs is first stored, if it will count, and then written to the ledger, whose row alone
makes it final: nobody overwrites the outputs of another's attempt, or of one that has ended. A store that will not have
them leaves the guest holding them: it is told why and sends them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from adapters.config import StorageAdapterConfig
from adapters.errors import LedgerUnavailable, StoreError
from adapters.intake import Answers, BatchHandler, Intake
from adapters.ledger import assignments, attempts, classes, completions, input_rights, inventory, outages
from adapters.ledger.attempts import Held
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.contents import FsspecContents
from adapters.storage.contract import Store, StoreContents
from adapters.storage.output_reads import OutputReads
from adapters.storage.store import FsspecStore
from adapters.storage.store_cleaner import StoreCleaner, bounds_of
from adapters.storage.transfer_server import TransferServer
from broker.address import read_address
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery
from broker.outbound import send
from broker.routes import reply
from broker.transfer import Transfers
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.files import OutputFile
from schemas.ids import JobRef, Kind
from schemas.jobs import JobCompletion

log = logging.getLogger(__name__)

#: How often the outbox is looked at, seconds.
SWEEP_S = 2.0
#: How often the store is tried out, seconds: an outage is what is six times as long.
TURN_S = 10.0
#: Completions taken and not yet acknowledged.
PREFETCH = 500


class StorageAdapter:
    """One instance; several share the queues."""

    def __init__(
        self,
        connection: Carrier,
        ledger: Ledger,
        store: Store,
        contents: StoreContents,
        config: StorageAdapterConfig,
        metrics: Metrics,
    ) -> None:
        self._connection, self._ledger, self._store, self._metrics = connection, ledger, store, metrics
        self._output_bytes = config.output_mib << 20
        complete = BatchHandler(handle=_complete, senders=frozenset({Kind.VM}))
        self._writer = LedgerWriter(connection, ledger, metrics)
        self._intake = Intake(connection, self._writer, {JobCompletion: complete}, metrics, after=assignments.match)
        self._transfer_server = TransferServer(
            Transfers(connection),
            store,
            Path(config.staging),
            self._may_store,
            self._may_have,
            self._host_of,
            self._intake.dead_letters,
            metrics,
            most_input_bytes=config.input_mib << 20,
            most_staged_bytes=config.staging_mib << 20,
        )
        self._output_reads = OutputReads(connection, self._writer, store, metrics, self._intake.refuse)
        self._store_cleaner = StoreCleaner(contents, self._writer, bounds_of(config), metrics)
        self._storing = OwnedTasks("storing of completions")

    async def run(self, user: str) -> None:
        """Serve until cancelled."""
        transfer_server, gate = self._transfer_server, self._intake.admission.gate
        chunks, control = f"vc.chunks.{user}", f"vc.control.{user}"
        consume = self._connection.consume
        await consume("vc.offers", transfer_server.on_opening, prefetch=64, gate=gate("vc.offers"))
        await consume(chunks, transfer_server.on_chunk, prefetch=256, once=True, gate=gate(chunks))
        await consume(control, transfer_server.on_message, prefetch=256, gate=gate(control))
        await consume("vc.reads", self._output_reads.door.on_delivery, prefetch=PREFETCH, gate=gate("vc.reads"))
        completions = "vc.completions"
        await consume(completions, self._on_completion, prefetch=PREFETCH, bundles=True, gate=gate(completions))
        await self._connection.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(), name="ledger intake")
                group.create_task(self._sweep(), name="sweep")
                group.create_task(self._turns(), name="turns")
                group.create_task(self._store_cleaner.run(), name="store cleaner")
                group.create_task(self._transfer_server.sweep(), name="staging sweep")
        finally:
            await self._output_reads.door.close()
            await self._transfer_server.close()
            await self._storing.cancel()
            await self._connection.close()
            await self._writer.close()

    def _on_completion(self, delivery: Delivery) -> None:
        """Completions without outputs go straight to the ledger; the others by the store."""
        self._intake.on_delivery(delivery, self._take_first)

    def _take_first(self, delivery: Delivery, sender: str, message: Message) -> bool:
        if not isinstance(message, JobCompletion) or not _carries(message):
            return False
        self._storing.spawn(self._store_first(delivery, sender, message))
        return True

    async def _store_first(self, delivery: Delivery, sender: str, message: JobCompletion) -> None:
        try:
            stored = await self._stored(sender, message)
        except (StoreError, OSError) as error:
            log.error("store refused", extra={"job": message.job, "why": str(error)})
            code, hint = getattr(error, "code", ErrorCode.STORE), "keep the output, send it again"
            failed = Failed(call=message.id, code=code, message=str(error), hint=hint)
            send(self._connection, reply(self._connection.user, sender, ""), failed, mandatory=False)
            delivery.ack()
        except Exception as error:
            log.exception("completion failed", extra={"job": message.job, "sender": sender})
            await self._intake.refuse(delivery, "failed", f"{type(error).__name__}: {error}", sender, message)
        else:
            self._intake.add(sender, stored, delivery)

    async def _stored(self, sender: str, message: JobCompletion) -> JobCompletion:
        """Store what rides in a completion that will count; any other goes on to its answer as it is.

        Waits for a ledger that is away. Raises StoreError.
        """
        for wait_s in backoff(0.2, 10.0):
            try:
                return await asyncio.to_thread(self._store_awaited, sender, message)
            except LedgerUnavailable as error:
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _store_awaited(self, sender: str, message: JobCompletion) -> JobCompletion:
        if not self._ledger.read(lambda tx: _looks_awaited(tx, sender, message.job, message.attempt)):
            return message
        return self._keep_inline(message)

    def _keep_inline(self, message: JobCompletion) -> JobCompletion:
        """Store what rides in the completion; the ledger gets the entries alone. An empty file is its entry."""
        entries = []
        for entry in message.outputs:
            if entry.content:
                file = OutputFile(job=message.job, attempt=message.attempt, name=entry.name)
                self._store.put_bytes(entry.content, file)
            entries.append(msgspec.structs.replace(entry, content=None))
        return msgspec.structs.replace(message, outputs=entries)

    async def _may_store(self, sender: str, file: OutputFile) -> int | None:
        """Say how many bytes the VM that holds an attempt may store of it: what its job asks for, or a setting.

        None for any other VM, and after the attempt has ended.
        """
        allowed: int | None = await self._writer.read(lambda tx: self._allowance(tx, sender, file))
        return allowed

    async def _may_have(self, vm: str, sha256: str) -> bool:
        may: bool = await self._writer.read(lambda tx: input_rights.may_have(tx, vm, sha256))
        return may

    async def _host_of(self, vm: str) -> str:
        host: str = await self._writer.read(lambda tx: inventory.host_of(tx, vm))
        return host

    def _allowance(self, tx: Tx, sender: str, file: OutputFile) -> int | None:
        if not _looks_awaited(tx, sender, file.job, file.attempt):
            return None
        asked = classes.asked_by(tx, file.job)
        return asked.disk_mib << 20 if asked is not None and asked.disk_mib else self._output_bytes

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._intake.sweep()
            except Exception:
                log.exception("sweep failed, again soon")
                self._metrics.sweep_failed()

    async def _turns(self) -> None:
        while True:
            try:
                await self.take_turn()
            except Exception:
                log.exception("turn failed, again soon")
                self._metrics.sweep_failed()
            await asyncio.sleep(TURN_S)

    async def take_turn(self) -> None:
        """Be at work, as far as the ledger knows, if files can come and the store takes them (see ``outages``)."""
        if not self._connection.is_up:
            return
        try:
            await asyncio.to_thread(self._store.try_out)
        except StoreError as error:
            log.error("store takes no files", extra={"why": str(error)})
            return
        await self._writer.write(outages.take_turn, light=True)


def _complete(tx: Tx, items: Sequence[tuple[str, JobCompletion]]) -> Answers:
    """Take the ends of jobs; their answers are in the outbox.

    One whose outputs were not stored, but which counts by now, as after `job retry`, must come again.
    """
    held = attempts.by_ref(tx, [(m.job, m.attempt) for _, m in items if _carries(m)])
    unstored = [_carries(m) and _is_awaited(held.get((m.job, m.attempt)), vm) for vm, m in items]
    completions.complete_all(tx, [item for item, left in zip(items, unstored, strict=True) if not left])
    return [_come_again(m) if left else None for (_, m), left in zip(items, unstored, strict=True)]


def _come_again(message: JobCompletion) -> Reply:
    text = f"{message.job}: its outputs were not stored while its attempt had ended"
    return Failed(call=message.id, code=ErrorCode.STORE, message=text, hint="keep the output, send it again")


def _carries(message: JobCompletion) -> bool:
    """Say whether outputs ride in it."""
    return any(entry.content for entry in message.outputs)


def _looks_awaited(tx: Tx, vm: str, job: JobRef, attempt: int) -> bool:
    """As ``_is_awaited``, for who changes nothing in the ledger."""
    return _is_awaited(attempts.look_up(tx, [(job, attempt)]).get((job, attempt)), vm)


def _is_awaited(held: Held | None, vm: str) -> bool:
    """Say whether a completion of that attempt by that VM would count, and none has yet."""
    return held is not None and not held.completion_id and not completions.refusal(held, vm)


async def run(config: StorageAdapterConfig) -> None:
    """Run an adapter with this configuration until cancelled."""
    address = read_address(Path(config.credential))
    metrics = Metrics(address.user, CollectorRegistry())
    policy = Policy(lease_s=config.lease_s, beat_s=config.beat_s, staging_s=config.staging_s)
    ledger = Ledger(config.ledger, instance=address.user, policy=policy)
    await asyncio.to_thread(ledger.open)
    connection = Connection(address, name=address.user, wait_most_s=CENTRE_WAIT_MOST_S)
    try:
        store = FsspecStore(config.store, ledger.served_s)
        adapter = StorageAdapter(connection, ledger, store, FsspecContents(store), config, metrics)
        # Last: who gets an answer takes the adapter for one that works.
        metrics.serve(config.metrics_port, config.metrics_address)
        await adapter.run(address.user)
    finally:
        await asyncio.to_thread(ledger.close)
