"""What the demo shows and what it insists on: where each job ran, and the checks that decide its exit status. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.ids import split_job_ref
from schemas.ledger import AttemptRow, JobRecord, JobState
from volcloud.listing import Listing
from volcloud.rendering.words import table

#: Events that must have been merged.
EVENTS = 4000
#: What the mean may be, at the widest.
EXPECTED_MEAN, WIDEST = 20.5, 0.5


class Check(msgspec.Struct, frozen=True):
    """Something that must be so."""

    name: str
    is_met: bool
    detail: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that was observed."""

    records: list[JobRecord]
    #: What merging gave: events, mean, error, means by seed.
    merged: dict[str, Any]
    native_mean: float
    hypervisor: str
    host_boot_id: str
    #: Hypervisor processes that were found running while the system was up.
    live_pids: frozenset[int]


def checks(seen: Seen) -> list[Check]:
    """Judge."""
    return [*_physics(seen), *_done(seen), *(_virtual(seen) if seen.hypervisor == "qemu" else [])]


def is_convincing(seen: Seen) -> bool:
    """Say whether every check is met."""
    return all(check.is_met for check in checks(seen))


def _physics(seen: Seen) -> list[Check]:
    events, mean = seen.merged["events"], seen.merged["mean"]
    first = float(seen.merged["means"].get("1", "nan"))
    return [
        Check(f"{EVENTS:,} events merged", events == EVENTS, f"{events:,}"),
        Check(f"mean within {WIDEST} of {EXPECTED_MEAN}", abs(mean - EXPECTED_MEAN) < WIDEST, f"{mean:.3f}"),
        Check("seed 1 as in a native run", first == seen.native_mean, f"{first:.3f} and {seen.native_mean:.3f}"),
    ]


def _done(seen: Seen) -> list[Check]:
    done = [record for record in seen.records if record.job.state is JobState.DONE]
    return [Check("every job is done", len(done) == len(seen.records) > 0, f"{len(done)} of {len(seen.records)}")]


def _virtual(seen: Seen) -> list[Check]:
    attempts = [last_attempt(record) for record in seen.records]
    boots = {attempt.boot_id for attempt in attempts}
    pids = {attempt.hypervisor_pid for attempt in attempts}
    return [
        Check(
            "each ran under a kernel of its guest's",
            bool(boots) and "" not in boots and seen.host_boot_id not in boots,
            f"{len(boots)} boots, none the host's",
        ),
        Check(
            "each ran in a QEMU process",
            bool(pids) and pids <= seen.live_pids,
            f"pids {', '.join(map(str, sorted(pids)))}",
        ),
    ]


def last_attempt(record: JobRecord) -> AttemptRow:
    """Give the attempt that counts; an empty one where there was none."""
    return record.attempts[-1] if record.attempts else AttemptRow(attempt=0, state="none", vm="")


def places_table(records: Sequence[JobRecord], merged: dict[str, Any]) -> Listing:
    """Show where each job ran and how long it waited, staged in, ran and staged out."""
    shown = table("job", "mean", "VM", "host", "boot id", "pid", "wait s", "in s", "run s", "out s")
    for record in records:
        attempt, steps = last_attempt(record), last_attempt(record).steps
        waited = max(0, attempt.assigned_ms - record.job.submitted_ms) / 1000
        mean = merged["means"].get(str(split_job_ref(record.job.job)[2]))
        times = (f"{one:.1f}" for one in (waited, steps.stage_in_s, steps.run_s, steps.stage_out_s))
        shown.add_row(
            record.job.job.partition("/")[2],
            "-" if mean is None else f"{mean:.3f}",
            attempt.vm_name or attempt.vm,
            attempt.host[:12],
            attempt.boot_id[:8],
            str(attempt.hypervisor_pid or "-"),
            *times,
        )
    return shown
