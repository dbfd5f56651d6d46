"""Why a job is where it is and what a person can do about it, decided from the facts, once for everybody. Pure.

Whoever shows a job says it in these words: a second opinion would contradict the cause some day.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from schemas.ids import JobRef
from schemas.ledger import JobState

#: After how long a stage-in, and a storage adapter that says nothing, are worth a word, seconds.
STAGE_IN_TELLS_S = 30.0
STORAGE_SILENT_S = 30.0


class Facts(Struct, frozen=True, kw_only=True):
    """What the ledger knows of a job that bears on where it is."""

    job: JobRef
    state: JobState
    failures: int = 0
    losses: int = 0
    #: Failures that hold it.
    most_failures: int = 1
    #: Why it is held, was cancelled, or why its last attempt ended badly.
    reason: str = ""
    #: What keeps its attempt from going on, as its guest says.
    trouble: str = ""
    #: What happened to it last.
    event: str = ""
    #: How long it still waits before it is tried again, seconds.
    wait_s: float = 0.0
    #: Of a job that waits: what the nearest VM lacks; None: there is no VM.
    lacking: list[str] | None = []
    #: For how long its inputs have been fetched, seconds.
    stage_in_s: float = 0.0
    #: The source that brought it, empty = none; and what that has not been told of its end yet, in words, empty =
    #: it has been told.
    source: str = ""
    owed: str = ""
    #: A person has to see to it.
    is_owed_held: bool = False
    #: For how long no adapter of its source has been heard of, seconds; 0: one is there.
    source_silent_s: float = 0.0
    #: For how long no storage adapter has been at work, seconds; None: none ever was.
    storage_silent_s: float | None = 0.0


class Why(NamedTuple):
    """Why a job is where it is; ``waiting_for``: the requirements that no VM meets. ``next_step`` is never empty."""

    cause: str
    waiting_for: list[str]
    next_step: str


def explain(facts: Facts) -> Why:
    """Say why a job is where it is, and what a person can do about it."""
    told = facts.reason or facts.event or "nothing has happened to it yet"
    if facts.owed:
        return Why(f"{facts.state} here; {facts.owed}{_silence(facts)}", [], _owed(facts))
    match facts.state:
        case JobState.SUBMITTED:
            return _waiting(facts, told)
        case JobState.HELD:
            return Why(told, [], _release(facts))
        case JobState.DONE:
            return Why(told, [], f"fetch its output with `volcloud job fetch {facts.job}`")
        case JobState.CANCELLED:
            return Why(told, [], _once_more(facts))
    return Why(facts.trouble or told, [], _at_work(facts))


def _owed(facts: Facts) -> str:
    retry = f"mend what it names, then `volcloud source retry {facts.source}`"
    if _silence(facts):
        start = f"start the adapter of {facts.source}" + (f", {retry}" if facts.is_owed_held else "")
        return f"{start}; if it is gone for good, `volcloud source delete {facts.source} --give-up`"
    return retry if facts.is_owed_held else "wait: it is tried again by itself; `volcloud source list` tells how it is"


def _silence(facts: Facts) -> str:
    if not facts.source_silent_s:
        return ""
    return f"; its adapter has not been heard of for {_span(facts.source_silent_s)}"


def _span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _once_more(facts: Facts) -> str:
    """Say how one that was cancelled runs after all."""
    if facts.source:
        return f"nothing: it has ended, and {facts.source} was told so; submit it there again to have it run after all"
    return "nothing: it has ended; submit it under a new id to have it run after all"


def _waiting(facts: Facts, told: str) -> Why:
    if facts.wait_s > 0:
        return Why(told, [], f"wait: it is tried again, on another VM if there is one, in about {facts.wait_s:.0f} s")
    if facts.lacking is None:
        start = "start a VM: `volcloud vm create`, then `volcloud vm start`"
        return Why("no VM has asked for work", ["a VM: none has asked for work yet"], start)
    if facts.lacking:
        mend = "start a VM that offers this, or cancel the job and submit it with lower requirements"
        return Why("no VM meets what it requires", facts.lacking, mend)
    return Why(told, [], "wait: VMs that can run it exist, and it goes to the next free job slot of one")


def _release(facts: Facts) -> str:
    job, is_failed = facts.job, facts.failures >= facts.most_failures
    if is_failed:
        mend = f"read `volcloud job logs {job}`, mend the payload"
    else:
        mend = f"look at the hosts that `volcloud job show {job}` names"
    counted = _counted(facts.failures, "failure") if is_failed else _counted(facts.losses, "loss")
    if facts.source:
        again = f"then submit it to {facts.source} again, which was told that it has failed"
        return f"held after {counted}: {mend}, {again}"
    return f"held after {counted}: {mend}, then `volcloud job retry {job}`"


def _counted(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}" + (plural if count != 1 else "")


def _at_work(facts: Facts) -> str:
    follow = f"`volcloud job show {facts.job} --follow` follows it"
    is_staging = facts.state is JobState.STAGE_IN and facts.stage_in_s >= STAGE_IN_TELLS_S
    # What the centre knows by itself comes before what a guest says.
    if is_staging and (facts.storage_silent_s is None or facts.storage_silent_s >= STORAGE_SILENT_S):
        return _staging(facts)
    if facts.trouble:
        return f"mend what it names; the job then goes on by itself, {follow}"
    if is_staging:
        return _staging(facts)
    return f"nothing, it is at work; {follow}"


def _staging(facts: Facts) -> str:
    silent_s = facts.storage_silent_s
    if silent_s is None:
        return "start a `storage_adapter`: its inputs come from one, and none has been at work yet"
    if silent_s < STORAGE_SILENT_S:
        return f"wait: its VM has been fetching its inputs for {facts.stage_in_s:.0f} s"
    return (
        "start a `storage_adapter`, or read the log of one that runs, whose store may take no files: "
        f"none has been at work for {silent_s:.0f} s"
    )
