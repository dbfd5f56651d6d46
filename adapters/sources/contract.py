"""What an adapter asks of a grid, and tells it: the port of sources.

Every method blocks, may be called from any thread, several at once, and returns or raises within the source's own time
limit. SourceUnavailable: the grid is away, slow, or does not make sense; the same is asked again later. SourceDenied:
it refuses us, and a person must look; the same is asked again. SourceRefused: the grid has understood and will never
have it so, of this job. Whatever else is raised is taken for the first, with a traceback in the log. What a grid's word
decides is bounded here: texts are cut, and numbers are put into range.

In the ledger there is, before the call of

* ``acquire``: the taking, where it has a name, and nothing of the jobs that it gives. They are written down before
  anything else is done;
* ``stage_in``: the job as it was acquired, with no row among the jobs;
* ``beat``: the job, which waits or is at work;
* ``stage_out``, ``register``, ``finish``: the end of the job, and which of these steps have been done;
* ``affirm``: the end of the job, and that it has been told;
* ``release``: the job as it was acquired, or nothing of it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

from msgspec import Meta, Struct

from schemas.description import MAX_ARGUMENTS, MAX_INPUTS, MAX_OUTPUTS, MAX_VARIABLES, Requirements
from schemas.files import RelativePath
from schemas.jobs import Machine
from schemas.ledger import JobState

#: A job's name at its grid, and what its source keeps with it, bytes.
MOST_ID, MOST_DATA_BYTES = 100, 32 << 10
#: For how long a grid that has nothing is left alone at most: it is asked less than once a minute, seconds.
GRID_PAUSE_S = 150.0
#: Largest input of a grid's job, bytes.
MOST_INPUT_BYTES = 16 << 30


class Offer(NamedTuple):
    """Slots that ask for work and that nothing which waits here fits."""

    machine: Machine
    slots: int


class GridInput(Struct, frozen=True, kw_only=True):
    """A file that a job needs: its name beside the executable, and where it is, in words of its source."""

    name: RelativePath
    where: str
    executable: bool = False


class GridWork(Struct, frozen=True, kw_only=True):
    """What a grid's job asks to be done: all of it that a guest may ever see.

    A source fills these fields in, one by one; what it does not name here stays at the centre.
    """

    executable: Annotated[str, Meta(min_length=1, max_length=200)]
    arguments: Annotated[list[str], Meta(max_length=MAX_ARGUMENTS)] = []
    environment: Annotated[dict[str, str], Meta(max_length=MAX_VARIABLES)] = {}
    inputs: Annotated[list[GridInput], Meta(max_length=MAX_INPUTS)] = []
    #: Names or patterns of what it leaves, beside its standard output and error.
    outputs: Annotated[list[str], Meta(max_length=MAX_OUTPUTS)] = []
    requirements: Requirements = Requirements()
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    wall_time_s: Annotated[float, Meta(gt=0, le=31 * 86400)] = 86400.0


class GridJob(Struct, frozen=True, kw_only=True):
    """A job by its name at its grid; ``attempt`` is the grid's own number of the try, from 1."""

    id: Annotated[str, Meta(min_length=1, max_length=MOST_ID)]
    attempt: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    #: What its source needs to answer for it. It is kept with the job and leaves the centre for the grid alone.
    data: Annotated[bytes, Meta(max_length=MOST_DATA_BYTES)] = b""


class Acquired(Struct, frozen=True, kw_only=True):
    """A job that a grid has given us; ``flaw``: why it cannot be done, so that the grid is to be told at once."""

    job: GridJob
    work: GridWork | None
    flaw: str = ""
    #: In which call it was taken, where that is an earlier one.
    taking: str = ""


class GridProgress(Struct, frozen=True, kw_only=True):
    """How far a job is."""

    job: GridJob
    state: JobState
    #: When its payload began, ms since 1970; 0 = not yet.
    started_ms: int = 0


class Stop(NamedTuple):
    """A grid's word that a job is to be stopped."""

    id: str
    attempt: int
    why: str


class GridOutput(Struct, frozen=True, kw_only=True):
    """An output of a job that has ended, and what is known of it elsewhere once it is there."""

    name: str
    size: int
    sha256: str
    #: Eight hexadecimal digits; and where it can be had, of a store that the grid can reach.
    adler32: str = ""
    url: str = ""


class GridEnding(Struct, frozen=True, kw_only=True):
    """How a job has ended."""

    job: GridJob
    #: ``done``, ``held`` (it failed, or was lost too often) or ``cancelled``.
    state: JobState
    exit_status: int = -1
    cause: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    outputs: list[GridOutput] = []
    #: What ``stage_out`` gave.
    sandbox: str = ""


#: Gives the path of an output on this machine, for as long as the call lasts. Raises StoreError.
LocalFile = Callable[[str], Path]


class GridSource(Protocol):
    """A grid, spoken to with its own credentials, which nobody else has."""

    @property
    def longest_pause_s(self) -> float:
        """For how long a source that has said that it has nothing is left alone at most, where nobody has set it,
        seconds: a grid's questions are counted, and a directory's are not."""

    @property
    def affirm_after_s(self) -> float:
        """After how long it is looked whether a final status stands, seconds: what was said before it has come to the
        grid by then, or never will. 0 = it is not looked: this grid lets nothing undo one."""

    @property
    def names_takings(self) -> bool:
        """Whether a job that is taken bears the name of its taking at the grid, so that ``taken`` finds it."""

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        """Take up to ``most`` jobs that these slots can do; none = the grid has nothing for them.

        What is given is ours at the grid until it is finished or released. It may be given twice, to us or to another
        adapter of this source: the ledger keeps it from being done twice. ``taking`` names this call; empty = it has no
        name. What an earlier one took that has failed may be given, and says so. What is lost on the way to the ledger
        is found by ``taken``, or is for the grid itself to notice. Not idempotent.
        """

    def taken(self, takings: Sequence[str]) -> Sequence[GridJob]:
        """Name the jobs that were taken in these calls, of this adapter or another, and are as they were left then.

        Nothing of them will be written down any more; those that the ledger does not know are released. A source that
        does not name its takings is not asked.
        """

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """Fetch an input into a new file. After a failure there may be a part of it. Idempotent.

        It writes no more than ``MOST_INPUT_BYTES``: what is larger is refused.
        """

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """Tell the grid how far these jobs are, and hear which are to be stopped, also those that were given up there.

        All that are at the grid are named each time, a thousand at most in a call; one that has ended here, and whose
        end is still to be delivered, is at ``stage-out``, and a stop of it stops nothing. Idempotent. A stop is said
        until the job is not named any more.
        """

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """Store the job's sandbox at the grid, where it has such a thing; gives its name there. Raises SandboxTooLarge
        for outputs that it does not take. Idempotent."""

    def register(self, ending: GridEnding) -> None:
        """Have the grid's catalogue know the outputs, where the source has one of its own. Idempotent."""

    def finish(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """Set the final status of these jobs; gives why it was not set, by id, of those of which it is known.

        A job whose status is final there, as this or as another, is left as it is. Idempotent.
        """

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """See that the final statuses of these jobs, which were set, stand, and set them again where what was said
        before has undone them; gives why one was not set, by id. What became of a job since, as its user or the grid
        wanted it, stays, and one that is not there any more is no error. Idempotent."""

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """Give back jobs that nobody has begun. No error is a job that the grid does not know; nor one that ``taken``
        has named and that is somebody else's by now, which is left alone. Idempotent."""

    def close(self) -> None:
        """Drop connections. Idempotent."""


def names_takings(source: GridSource) -> bool:
    """Whether a source names its takings. One that was written for an earlier release does not say, and has none."""
    return getattr(source, "names_takings", False)
