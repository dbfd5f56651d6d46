"""The end of a job on its way to its grid, and how far it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.catalogues.contract import Replica
from adapters.grid_stores.names import copy_name
from adapters.ledger.deliveries import DueDelivery, Key
from adapters.sources.beating import read_grid_job
from adapters.sources.contract import GridEnding, GridOutput
from schemas.description import STREAMS
from schemas.ledger import JobState
from schemas.sites import JobEnded


class Delivered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the steps of a delivery have given; ``differed``: how often the store had something else than was sent;
    ``flaw``: why a job that is done here has failed at its grid."""

    sandbox: str = ""
    outputs: list[GridOutput] = []
    differed: int = 0
    flaw: str = ""


class EndDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a job, and how far its delivery is."""

    key: Key
    ended: JobEnded
    step: str
    ending: GridEnding
    differed: int = 0
    flaw: str = ""
    #: The step that was done when it was taken.
    begun_after: str = ""


def read_delivery(due: DueDelivery, ended: JobEnded) -> EndDelivery | None:
    """Read how far a delivery is; None where it cannot be read whose end that is."""
    job = read_grid_job(due.source_data)
    if job is None:
        return None
    kept = msgspec.msgpack.decode(due.kept, type=Delivered) if due.kept else Delivered(outputs=_left(ended))
    ending = GridEnding(
        job=job,
        state=JobState.HELD if kept.flaw else ended.state,
        exit_status=ended.exit_status,
        cause=kept.flaw or ended.cause,
        started_ms=ended.started_ms,
        ended_ms=ended.ended_ms,
        outputs=kept.outputs,
        sandbox=kept.sandbox,
    )
    return EndDelivery(
        key=due.key,
        ended=ended,
        step=due.step,
        ending=ending,
        differed=kept.differed,
        flaw=kept.flaw,
        begun_after=due.step,
    )


def copies_of(one: EndDelivery) -> list[Replica]:
    """Name the copies that a job which is done has in the grid's store."""
    if one.ending.state is not JobState.DONE:
        return []
    return [
        Replica(
            name=copy_name(one.ended.job, one.ended.attempt, output.name),
            size=output.size,
            adler32=output.adler32,
            url=output.url,
        )
        for output in one.ending.outputs
        if output.url
    ]


def kept_of_ending(ending: GridEnding) -> Delivered:
    """Keep what the steps before have given."""
    return Delivered(sandbox=ending.sandbox, outputs=ending.outputs)


def with_step(one: EndDelivery, step: str, kept: Delivered) -> EndDelivery:
    """Give a delivery as it is after a step."""
    ending = msgspec.structs.replace(one.ending, sandbox=kept.sandbox, outputs=kept.outputs)
    if flaw := kept.flaw or one.flaw:
        ending = msgspec.structs.replace(ending, state=JobState.HELD, cause=flaw)
    return msgspec.structs.replace(one, step=step, ending=ending, flaw=flaw)


def for_sandbox(outputs: Sequence[GridOutput], most_bytes: int) -> list[GridOutput]:
    """Choose what goes into a sandbox of what is in a grid's store too: what a job prints, and the smaller files."""
    chosen, left = [], most_bytes
    for one in sorted(outputs, key=lambda one: (one.name not in STREAMS, one.size)):
        if one.size > left and one.name not in STREAMS:
            break
        chosen.append(one)
        left -= one.size
    return [one for one in outputs if one in chosen]


def _left(ended: JobEnded) -> list[GridOutput]:
    return [GridOutput(name=one.name, size=one.size, sha256=one.sha256) for one in ended.outputs]
