"""Delivering the ends of jobs to their grid: each step by itself, written down when it is done, the final status last.

A job is done once its output is in our store. What comes after is done as often as it takes, whoever is killed in
between, and never runs the job again.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from zlib import adler32

import msgspec

from adapters.catalogues.contract import Catalogue
from adapters.errors import AdapterError, CopyDiffers, GridStoreRefused, NotInGridStore, SandboxTooLarge
from adapters.grid_stores.contract import GridStore
from adapters.grid_stores.names import copy_name
from adapters.ledger import deliveries, endings
from adapters.ledger.deliveries import AFFIRM, DueDelivery, Key
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.at_work import MOST_TAKEN, AtWork
from adapters.sources.contract import GridEnding, GridSource
from adapters.sources.end_delivery import (
    Delivered,
    EndDelivery,
    for_sandbox,
    kept_of_ending,
    read_delivery,
    with_step,
)
from adapters.sources.gathering import Gathering
from adapters.sources.lane import Lane
from adapters.sources.pace import LookPauses
from adapters.sources.registering import Registering
from adapters.sources.reporting import FINAL, Reporting, note
from adapters.storage.contract import Store
from schemas.description import STREAMS
from schemas.files import OutputFile
from schemas.ledger import SETTLED, JobState
from schemas.sites import JobEnded

log = logging.getLogger(__name__)

#: How often ends are looked for, seconds; calls to the grid at once; and the most that is read of what a job has left.
LOOK_S, AT_ONCE, MOST_BYTES = 1.0, 4, 16 << 20
#: And how soon after something was there, or jobs have come.
SOON_S = 0.05
#: The steps, in their order; the final status comes after all of them.
STAGE_OUT, UPLOAD, VERIFY, REGISTER = "stage-out", "upload", "verify", "register"
#: How often what a store has may differ from what was sent, and it is sent again.
MOST_DIFFERED = 5
#: What of outputs that are in a grid's store goes into the job's sandbox as well, bytes.
MOST_SANDBOX_BYTES = 64 << 20
#: Bytes that are read at a time for a checksum.
BLOCK = 1 << 20
#: Why an end is told to nobody whose grid's job is not known.
UNREADABLE = "what was kept of its grid's job cannot be read"
#: A step: does its work for an ending, in a thread, and gives what is to be kept. Raises AdapterError.
Step = Callable[[JobEnded, GridEnding], Delivered]


class Delivering:
    """See the module; ``turn`` is the lane's."""

    def __init__(
        self,
        name: str,
        source: GridSource,
        writer: LedgerWriter,
        store: Store,
        directory: Path,
        lane: Lane,
        report: Lane,
        grid_store: GridStore | None = None,
        catalogue: Catalogue | None = None,
        on_ends: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        """Without a grid's store outputs go into the sandbox alone. ``on_ends`` hears for how long jobs ran, s."""
        self._name, self._source, self._writer, self._store = name, source, writer, store
        self._directory, self._lane, self._empty = directory, lane, directory / "empty"
        self._empty.touch()
        self._grid_store = grid_store
        self._on_ends = on_ends
        self._looks, self._look_at_s = LookPauses(SOON_S), 0.0
        self._at_work = AtWork("deliver", writer, self._renew)
        self._stepped = Gathering(self._write_steps, MOST_TAKEN)
        self._registering = Registering(catalogue, lane)
        #: Has a lane of its own, ``report``.
        self.reporting = Reporting(source, report, self._at_work)
        copying: dict[str, Step] = {} if grid_store is None else {UPLOAD: self._upload, VERIFY: self._verify}
        self.steps: dict[str, Step] = {STAGE_OUT: self._stage_out, **copying, REGISTER: self._register}

    async def turn(self) -> float:
        """Take a portion of what is due, and begin to see to each; see ``reporting`` for what is left then."""
        await self._at_work.renew(self.reporting.keys)
        with self._at_work.doubting():
            if self._has_room and time.monotonic() >= self._look_at_s:
                await self._begin(await self._due())
        return max(0.0, self._look_at_s - time.monotonic()) if self._has_room else LOOK_S

    def look_soon(self) -> None:
        """Look soon: jobs have come that may end at once."""
        self._looks.soon()
        self._look_at_s = min(self._look_at_s, time.monotonic() + SOON_S)
        self._lane.wake()

    async def close(self) -> None:
        """End what is at work. Idempotent."""
        await self._at_work.close()

    @property
    def _has_room(self) -> bool:
        return self._at_work.has_room and self.reporting.has_room

    def _renew(self, tx: Tx, keys: Sequence[Key]) -> None:
        deliveries.renew(tx, self._name, keys)

    async def _due(self) -> list[DueDelivery]:
        """Take a portion of what is due, and say when is looked for more."""
        due: list[DueDelivery] = []
        if await self._writer.read(lambda tx: deliveries.is_any_due(tx, self._name)):
            due = await self._at_work.write(lambda tx: deliveries.take(tx, self._name))
            self._looks.soon()
        is_more = len(due) == deliveries.PORTION
        self._look_at_s = time.monotonic() + (0.0 if is_more else self._looks.pause_s(LOOK_S))
        return due

    async def _begin(self, due: Sequence[DueDelivery]) -> None:
        ends = await self._read(due) if due else []
        told, untold = ([one for one in ends if (one.key.what == AFFIRM) is is_told] for is_told in (True, False))
        for one in told:
            self.reporting.add(one)
        for one in untold:
            self._at_work.begin(one.key, partial(self._prepare, one))
        ran_s = [(one.ended.ended_ms - one.ended.started_ms) / 1000 for one in untold if one.ended.started_ms]
        if ran_s:
            self._on_ends(ran_s)

    async def _read(self, due: Sequence[DueDelivery]) -> list[EndDelivery]:
        numbers = [one.key.job for one in due]
        ended = await self._writer.read(lambda tx: endings.of_jobs(tx, numbers, MOST_BYTES))
        by_job = {one.job: one for one in ended if one.state in SETTLED}
        if len(by_job) < len(due):
            self._at_work.doubt()  # of jobs that have left much some are read the next time
        made = {one.key: read_delivery(one, by_job[one.job]) for one in due if one.job in by_job}
        if unreadable := {key: UNREADABLE for key, delivery in made.items() if delivery is None}:
            await self._at_work.write(partial(note, unreadable, True))
        return [delivery for delivery in made.values() if delivery is not None]

    async def _prepare(self, one: EndDelivery) -> None:
        """Do the steps that are left before the final status, or note why one could not be done."""
        try:
            done = await self._go_through(one)
            self._lane.trouble("")
            self.reporting.add(done)
        except (AdapterError, OSError) as error:
            words = f"{self._failed_step(error, one)}: {error}"
            self._lane.trouble(f"job {one.ending.job.id}: {words}")
            await self._at_work.write(partial(note, {one.key: words}, isinstance(error, FINAL)))
        except Exception as error:
            log.exception("a fault of ours with a job's end", extra={"job": one.ended.job})
            words = f"{self._failed_step(error, one)}: {type(error).__name__}: {error}"
            self._lane.trouble(f"job {one.ending.job.id}: {words}")
            await self._at_work.write(partial(note, {one.key: words}, False))
        self._lane.wake()

    async def _go_through(self, one: EndDelivery) -> EndDelivery:
        while step := self._next(one.step):
            try:
                kept = await self._lane.call(self.steps[step], one.ended, one.ending)
                if step == REGISTER:
                    # What begins with this step has failed at it, maybe by its own fault.
                    await self._registering.register(one, alone=self._next(one.begun_after) == REGISTER)
            except CopyDiffers as error:
                if one.differed >= MOST_DIFFERED:
                    raise GridStoreRefused(f"{one.differed + 1} times in turn: {error}") from error
                again = msgspec.structs.replace(one, step=STAGE_OUT, differed=one.differed + 1)
                await self._stepped.add(again)
                raise
            except (AdapterError, OSError) as error:
                error.add_note(step)
                raise
            one = with_step(one, step, kept)
            await self._stepped.add(one)
        return one

    async def _write_steps(self, done: Sequence[EndDelivery]) -> None:
        await self._at_work.write(partial(_stepped, done))

    def _failed_step(self, error: Exception, one: EndDelivery) -> str:
        return next(iter(getattr(error, "__notes__", ())), "") or self._next(one.step) or "report"

    def _next(self, step: str) -> str:
        names = list(self.steps)
        at = names.index(step) + 1 if step in names else 0
        return names[at] if at < len(names) else ""

    def _stage_out(self, ended: JobEnded, ending: GridEnding) -> Delivered:
        if ended.state is JobState.CANCELLED:
            return Delivered()
        is_copied = self._grid_store is not None and ended.state is JobState.DONE
        packed = for_sandbox(ending.outputs, MOST_SANDBOX_BYTES) if is_copied else ending.outputs
        with self._at_hand() as directory:
            local = partial(self.local, ended, directory)
            try:
                sandbox = self._source.stage_out(msgspec.structs.replace(ending, outputs=packed), local)
            except SandboxTooLarge as error:
                printed = [one for one in ending.outputs if one.name in STREAMS]
                if len(printed) == len(packed):
                    raise
                sandbox = self._source.stage_out(msgspec.structs.replace(ending, outputs=printed), local)
                return Delivered(sandbox=sandbox, outputs=printed, flaw=str(error))
            return Delivered(sandbox=sandbox, outputs=ending.outputs)

    def _upload(self, ended: JobEnded, ending: GridEnding) -> Delivered:
        if self._grid_store is None or ending.state is not JobState.DONE:
            return kept_of_ending(ending)
        sent = []
        with self._at_hand() as directory:
            for one in ending.outputs:
                local, name = self.local(ended, directory, one.name), copy_name(ended.job, ended.attempt, one.name)
                self._grid_store.put(local, name)
                sent.append(msgspec.structs.replace(one, url=self._grid_store.url(name), adler32=_adler32(local)))
        return Delivered(sandbox=ending.sandbox, outputs=sent)

    def _verify(self, ended: JobEnded, ending: GridEnding) -> Delivered:
        """Compare what the grid's store says that it has with what was sent."""
        if self._grid_store is None or ending.state is not JobState.DONE:
            return kept_of_ending(ending)
        for one in ending.outputs:
            try:
                there = self._grid_store.stat(copy_name(ended.job, ended.attempt, one.name))
            except NotInGridStore as error:
                raise CopyDiffers(f"it was sent, and is not there any more: {error}") from error
            if (there.size, there.adler32) != (one.size, one.adler32):
                text = f"{one.url} has {there.size} bytes, adler32 {there.adler32}; sent were {one.size}, {one.adler32}"
                raise CopyDiffers(text)
        return kept_of_ending(ending)

    def _register(self, ended: JobEnded, ending: GridEnding) -> Delivered:
        if ending.state is JobState.DONE:
            self._source.register(ending)
        return kept_of_ending(ending)

    @contextmanager
    def _at_hand(self) -> Iterator[Path]:
        """Give the name of a directory, which ``local`` makes when it is needed; most outputs are here already."""
        directory = self._directory / f"out-{secrets.token_hex(8)}"
        try:
            yield directory
        finally:
            if directory.exists():
                shutil.rmtree(directory, ignore_errors=True)

    def local(self, ended: JobEnded, directory: Path, name: str) -> Path:
        """Give an output's path on this machine; one that has to be copied goes into the directory."""
        file = OutputFile(job=ended.job, attempt=ended.attempt, name=name)
        if next((one.size for one in ended.outputs if one.name == name), 0) == 0:
            return self._empty  # what is empty is in no store
        there = self._store.local(file)
        if there is not None:
            return there
        directory.mkdir(exist_ok=True)
        target = directory / f"{len(list(directory.iterdir()))}"
        try:
            self._store.copy(file, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return target


def _adler32(path: Path) -> str:
    checksum = 1
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum = adler32(block, checksum)
    return f"{checksum:08x}"


def _stepped(done: Sequence[EndDelivery], tx: Tx) -> None:
    for one in done:
        kept = Delivered(sandbox=one.ending.sandbox, outputs=one.ending.outputs, differed=one.differed, flaw=one.flaw)
        deliveries.stepped(tx, one.key, one.step, msgspec.msgpack.encode(kept))
