"""Answers as people read them: tables and a few lines, with colours for states. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from schemas.ledger import AttemptRow, HostRow, JobRecord, JobRow, Jobs, RegistryRow
from schemas.plain_text import plain
from schemas.vms import UNDECIDED, VmStatus
from volcloud.listing import Listing
from volcloud.why import Explanation

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "held": "red",
    "aborted": "red",
    "stuck": "red",
    "set_aside": "red",
    "missing": "red",
    "lost": "red",
    "cancelled": "yellow",
    "submitted": "dim",
    "poweredoff": "dim",
    "paused": "yellow",
    "saved": "yellow",
}


def table(*headers: str) -> Listing:
    """Make an empty table in our style."""
    return Listing(*headers)


def lines(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Render names with values; empty values are left out."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value != "":
            grid.add_row(name, value)
    return grid


def state(word: str) -> Text:
    """Render a state in its colour."""
    return Text(plain(word), style=_COLOURS.get(word, ""))


def ago(then_ms: int) -> str:
    """Say how long ago a time was; empty for none."""
    return f"{span((time.time() * 1000 - then_ms) / 1000)} ago" if then_ms else ""


def span(seconds: float) -> str:
    """Say a duration in two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit_s, unit, smaller_s, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} {int(seconds % unit_s // smaller_s)} {smaller}"
    return f"{seconds:.0f} s"


def clock(at_ms: int) -> str:
    """Say a time of day with its date; empty for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else ""


def render_jobs(jobs: Jobs) -> RenderableType:
    """Render a listing of jobs with the counts below it."""
    shown = table("JOB", "STATE", "ATTEMPT", "VM", "SUBMITTED", "RAN FOR", "REASON")
    for row in jobs.jobs:
        shown.add_row(
            row.job, state(row.state), str(row.attempt or ""), row.vm, ago(row.submitted_ms), _ran(row), row.reason
        )
    return Group(shown, Text(_below(jobs), style="dim"))


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


def render_hosts(rows: Sequence[HostRow]) -> RenderableType:
    """Render a listing of hosts."""
    shown = table("HOST", "NAME", "PRESENT", "VMS", "CPUS", "MEMORY", "FREE DISK", "HYPERVISOR", "SEEN")
    for row in rows:
        facts = row.facts
        driver = f"{facts.hypervisor} {facts.accelerator}".strip() + ("" if facts.isolates else " (no isolation)")
        present = Text(row.presence, style="green" if row.presence == "present" else "red")
        size = (str(facts.cpus), f"{facts.memory_mib} MiB", f"{facts.free_disk_mib} MiB")
        shown.add_row(row.host, facts.hostname, present, str(row.vms), *size, driver, ago(row.seen_ms))
    return shown


def render_vms(rows: Sequence[RegistryRow]) -> RenderableType:
    """Render a listing of VMs."""
    shown = table("VM", "NAME", "STATE", "AGENT", "CPUS", "MEMORY", "PID", "JOBS", "HOST", "REASON")
    for row in rows:
        vm = row.status
        size = (str(vm.cpus), f"{vm.memory_mib} MiB", str(vm.pid or ""))
        shown.add_row(vm.vm, vm.name, _state_of(vm), _agent(row), *size, str(len(row.jobs)), row.host, vm.reason)
    return shown


def _state_of(vm: VmStatus) -> Text:
    """Say in what state a VM is, and what is being done to it: "running, stop for 12 s"."""
    if vm.act is None:
        return state(vm.state)
    percent = f" {vm.act.percent} %" if vm.act.percent is not None else ""
    return Text.assemble(state(vm.state), (plain(f", {vm.act.verb}{percent} for {span(vm.act.for_s)}"), "dim"))


def _agent(row: RegistryRow) -> Text:
    """Say whether a guest agent serves. One whose VM is set aside may speak, and is given nothing to do."""
    if row.agent_ready:
        return Text("ready", style="green")
    return Text("not used" if row.status.state in UNDECIDED else "silent", style="dim")


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
