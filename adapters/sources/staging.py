"""What a grid has given becomes a job of ours: its inputs are fetched into the store, then it is submitted.

A job that cannot be done is told its grid as failed, with the reason, and nothing of it remains here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from adapters.errors import AdapterError, SourceError, SourceRefused
from adapters.ledger import acquisitions, assignments, submissions
from adapters.ledger.acquisitions import Acquisition, AcquisitionKey
from adapters.ledger.submissions import CheckedSubmission, Origin
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.at_work import AtWork
from adapters.sources.contract import GridEnding, GridInput, GridJob, GridSource, GridWork
from adapters.sources.gathering import Gathering
from adapters.sources.lane import Lane
from adapters.storage.contract import Store
from schemas.description import Input, JobDescription, Output
from schemas.files import InputFile
from schemas.ids import Sha256
from schemas.ledger import JobState, JobSubmit
from schemas.wanted import explain

log = logging.getLogger(__name__)

#: How often what was given is looked for, seconds, and how many inputs are fetched at once.
LOOK_S, AT_ONCE = 2.0, 4
#: Jobs that are submitted in one transaction.
MOST_TOGETHER = 50
#: Turns with something at work until one that is to be at work alone is made way for.
MOST_TURNS = 20
#: What asks for no more than this is checked at once, bytes.
SHORT_BYTES = 4096
#: Bytes that are read at a time for a digest.
BLOCK = 1 << 20
#: What a grid has given, and the submission that it becomes.
Brought = tuple[Acquisition, CheckedSubmission]


class GridStageIn:
    """See the module; ``turn`` is the lane's."""

    def __init__(
        self,
        name: str,
        source: GridSource,
        writer: LedgerWriter,
        store: Store,
        directory: Path,
        lane: Lane,
        on_submitted: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_submitted`` hears that there are jobs of the grid's here that may run."""
        self._name, self._source, self._writer, self._store = name, source, writer, store
        self._directory, self._lane, self._on_submitted = directory, lane, on_submitted
        self._at_work = AtWork("stage-in", writer, self._renew)
        self._submitted = Gathering(self._submit, MOST_TOGETHER)
        #: What is to be at work alone, and was taken last; and turns since nothing was at work.
        self._alone: AcquisitionKey | None = None
        self._turns = 0

    async def turn(self) -> float:
        """Take a portion of what was given, and begin to see to each; one's failure, or its slowness, is its own."""
        await self._at_work.renew()
        if not self._at_work.has_room or self._at_work.has(self._alone) or await self._makes_way():
            return LOOK_S
        take = partial(acquisitions.take, source=self._name, is_idle=self._at_work.is_idle)
        taken: list[Acquisition] = await self._at_work.write(take)
        self._alone = next((one.key for one in taken if one.lost >= acquisitions.SUSPECT), None)
        for one in taken:
            self._at_work.begin(one.key, partial(self._see_to, one))
        return 0.0 if len(taken) == acquisitions.PORTION else LOOK_S

    async def _makes_way(self) -> bool:
        """Whether nothing more is begun until all is done that is at work: one waits that is to be at work alone."""
        self._turns = 0 if self._at_work.is_idle else self._turns + 1
        if self._turns < MOST_TURNS:
            return False
        return await self._writer.read(lambda tx: acquisitions.has_suspect(tx, self._name))

    async def close(self) -> None:
        """End what is at work. Idempotent."""
        await self._at_work.close()

    def _renew(self, tx: Tx, keys: Sequence[AcquisitionKey]) -> None:
        acquisitions.renew(tx, self._name, keys)

    async def _see_to(self, one: Acquisition) -> None:
        if one.lost >= acquisitions.MOST_LOST:
            await self._give_up(one)
        else:
            await self._try(one)
        if one.lost >= acquisitions.SUSPECT:
            self._lane.wake()  # others may be at work again

    async def _try(self, one: Acquisition) -> None:
        try:
            await (self._tell_flaw(one) if one.flaw else self._bring(one))
        except SourceRefused as error:
            await self._refused(one, str(error))
        except (AdapterError, OSError) as error:
            await self._again(one, str(error), spends_patience=isinstance(error, SourceError))
        except Exception as error:
            log.exception("a fault of ours with a job of the grid", extra={"job": one.key.id})
            await self._again(one, f"{type(error).__name__}: {error}", spends_patience=False)
        else:
            self._lane.trouble("")

    async def _again(self, one: Acquisition, why: str, *, spends_patience: bool = True) -> None:
        self._lane.trouble(f"job {one.key.id}: {why}")
        await self._at_work.write(lambda tx: acquisitions.again(tx, one, why, spends_patience=spends_patience))

    async def _refused(self, one: Acquisition, why: str) -> None:
        """The grid refuses what this job needs, or to hear that it cannot be done: that is said again for long."""
        if not one.flaw:
            await self._at_work.write(lambda tx: acquisitions.refuse(tx, one, why))
            self._lane.wake()
        elif one.tries < acquisitions.MOST_TRIES:
            await self._again(one, why)
        else:
            await self._drop(one, why)

    async def _give_up(self, one: Acquisition) -> None:
        """Whoever began it ended: have that told its grid, or where just that ends them, nothing."""
        why = f"{one.lost} times this centre's adapter ended while it saw to the job"
        if one.flaw:
            await self._drop(one, why)
        else:
            log.error("a job of the grid is given up", extra={"job": one.key.id, "why": why})
            await self._at_work.write(lambda tx: acquisitions.refuse(tx, one, why))
            self._lane.wake()

    async def _drop(self, one: Acquisition, why: str) -> None:
        log.error("its grid does not hear that it cannot be done", extra={"job": one.key.id, "why": why})
        await self._at_work.write(lambda tx: acquisitions.forget(tx, [one.key]))

    async def _tell_flaw(self, one: Acquisition) -> None:
        ending = GridEnding(job=grid_job(one), state=JobState.HELD, cause=one.flaw)
        refusals = await self._lane.call(self._source.finish, [ending])
        if words := refusals.get(one.key.id):
            raise SourceRefused(words)
        log.warning("a job of the grid cannot be done", extra={"job": one.key.id, "why": one.flaw})
        await self._at_work.write(lambda tx: acquisitions.forget(tx, [one.key]))

    async def _bring(self, one: Acquisition) -> None:
        try:
            work = msgspec.msgpack.decode(one.work, type=GridWork)
        except msgspec.DecodeError as error:
            raise SourceRefused(f"what it asks for cannot be read: {error}") from error
        inputs = [await self._lane.call(self._fetch, grid_job(one), wanted) for wanted in work.inputs]
        message = JobSubmit(job=described(one, work, inputs))
        origin = Origin(self._name, msgspec.msgpack.encode(grid_job(one)))
        check = partial(submissions.check, message, self._store.has_input, origin)
        is_short = not inputs and len(one.work) <= SHORT_BYTES
        checked = check() if is_short else await asyncio.to_thread(check)
        await self._submitted.add((one, checked), alone=one.tries > 1)

    async def _submit(self, brought: Sequence[Brought]) -> None:
        await self._at_work.write(lambda tx: submit(tx, brought))
        self._on_submitted()

    def _fetch(self, job: GridJob, wanted: GridInput) -> Input:
        """Fetch a file of the grid into the store; in a thread."""
        with tempfile.TemporaryDirectory(prefix="in-", dir=self._directory) as directory:
            target = Path(directory) / "file"
            self._source.stage_in(job, wanted, target)
            size, sha256 = target.stat().st_size, _digest(target)
            if not self._store.has_input(sha256):
                self._store.put(target, InputFile(sha256=sha256))
        return Input(name=wanted.name, sha256=sha256, size=size, executable=wanted.executable)


def grid_job(one: Acquisition) -> GridJob:
    """Give the grid's name of a job, as its source is told it."""
    return GridJob(id=one.key.id, attempt=one.key.attempt, data=one.data)


def described(one: Acquisition, work: GridWork, inputs: list[Input]) -> JobDescription:
    """Describe a grid's job as one of ours: this is all of it that leaves the centre. Raises SourceRefused."""
    job = JobDescription(
        id=one.key.job_id,
        executable=work.executable,
        arguments=work.arguments,
        environment=work.environment,
        inputs=inputs,
        outputs=[Output(name=name, optional=True) for name in work.outputs],
        requirements=work.requirements,
        priority=work.priority,
        wall_time_s=work.wall_time_s,
    )
    try:
        return msgspec.convert(msgspec.to_builtins(job), JobDescription)
    except msgspec.ValidationError as error:
        raise SourceRefused(explain(str(error), JobDescription, msgspec.to_builtins(job))) from error


def submit(tx: Tx, brought: Sequence[Brought]) -> None:
    """Make jobs of ours of what a grid has given, or have it told why that cannot be."""
    verdicts = submissions.submit_all(tx, [(one.key.owner, checked) for one, checked in brought])
    accepted = []
    for (one, checked), verdict in zip(brought, verdicts, strict=True):
        if verdict.accepted:
            accepted.append(one.key)
        elif checked.reasons:
            tx.counts["given_refused"] += 1
            acquisitions.refuse(tx, one, "; ".join(verdict.reasons))
        else:  # a limit of its owner's: not now
            acquisitions.again(tx, one, "; ".join(verdict.reasons), spends_patience=False)
    tx.counts["given_submitted"] += len(accepted)
    acquisitions.forget(tx, accepted)
    if accepted:
        assignments.match(tx)


def _digest(path: Path) -> Sha256:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
