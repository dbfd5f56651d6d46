"""Jobs as people read them: listings, the record of one, and why it is where it is."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from schemas.ledger import AttemptRow, JobRecord, JobRow, Jobs
from volcloud.rendering.words import ago, clock, lines, span, state, table
from volcloud.why import Explanation


def render_jobs(jobs: Jobs) -> RenderableType:
    """Render a listing of jobs with the counts below it."""
    return Group(render_job_rows(jobs.jobs), Text(_below(jobs), style="dim"))


def render_job_rows(rows: Sequence[JobRow]) -> RenderableType:
    """Render jobs, a row each."""
    shown = table("JOB", "STATE", "ATTEMPT", "VM", "SUBMITTED", "RAN FOR", "REASON")
    for row in rows:
        shown.add_row(
            row.job, state(row.state), str(row.attempt or ""), row.vm, ago(row.submitted_ms), _ran(row), row.reason
        )
    return shown


def _below(jobs: Jobs) -> str:
    """Say what there is, and that only a part of it is shown."""
    total = sum(jobs.counts.values())
    if len(jobs.jobs) >= total:
        return told_counts(jobs.counts)
    return f"{len(jobs.jobs):,} of {total:,} shown, the newest: {told_counts(jobs.counts)}; --limit shows more"


def told_counts(counts: dict[str, int]) -> str:
    """Say how many jobs are in each state."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no jobs"


def render_record(record: JobRecord) -> RenderableType:
    """Render all that is known of a job."""
    row, job = record.job, record.description
    head = lines(
        [
            ("job", row.job),
            ("state", state(row.state)),
            ("command", " ".join([job.executable, *job.arguments])),
            ("submitted", clock(row.submitted_ms)),
            ("ended", clock(row.ended_ms)),
            ("cause", record.cause),
            ("waits for", "; ".join(record.waiting_for)),
            ("next step", record.next_step),
        ]
    )
    return Group(head, "", _attempts(record.attempts), "", _events(record))


def render_why(why: Explanation) -> RenderableType:
    """Render why a job is where it is."""
    returns = f", {why.returns} returns" if why.returns else ""
    counted = f"{why.attempt} ({why.failures} failures, {why.losses} losses{returns})" if why.attempt else "none yet"
    return lines(
        [
            ("job", why.job),
            ("state", state(why.state)),
            ("attempt", counted),
            ("where", why.where),
            ("cause", why.cause),
            ("waits for", "\n".join(why.waiting_for)),
            ("noticed by", why.noticed_by),
            ("when", f"{clock(why.at_ms)} ({ago(why.at_ms)})" if why.at_ms else ""),
            ("earlier", "\n".join(why.earlier)),
            ("next step", why.next_step),
        ]
    )


def _ran(row: JobRow) -> str:
    if not row.started_ms:
        return ""
    return span(((row.ended_ms or time.time() * 1000) - row.started_ms) / 1000)


def _attempts(attempts: Sequence[AttemptRow]) -> RenderableType:
    if not attempts:
        return Text("no attempt yet", style="dim")
    shown = table("ATTEMPT", "STATE", "VM", "HOST", "SLOT", "STAGE IN", "RUN", "STAGE OUT", "EXIT", "CAUSE")
    for row in attempts:
        steps = (span(row.steps.stage_in_s), span(row.steps.run_s), span(row.steps.stage_out_s))
        exit_status = str(row.exit_status) if row.exit_status >= 0 else ""
        place = (row.vm_name or row.vm, row.host, str(row.slot))
        shown.add_row(str(row.attempt), state(row.state), *place, *steps, exit_status, row.cause)
    return shown


def _events(record: JobRecord) -> RenderableType:
    shown = table("WHEN", "ATTEMPT", "EVENT", "NOTICED BY", "DETAIL")
    for event in record.events:
        shown.add_row(clock(event.at_ms), str(event.attempt or ""), event.event, event.noticed_by, event.detail)
    return shown
