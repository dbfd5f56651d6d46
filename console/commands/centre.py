"""``volcloud up``, ``down`` and ``status``: a whole system on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from console.centre.detach import start_detached
from console.centre.layout import Layout
from console.centre.overview import Overview, look
from console.centre.plan import Plan
from console.centre.stopping import clean_up, live_processes, live_supervisor, node_record
from console.centre.supervisor import hold_until_signal
from console.errors import CommandFailed, Unreachable
from console.invocation import Invocation, data_option, json_option, pass_invocation
from console.rendering import ago, lines, render_hosts, render_vms, table, told_counts
from console.screen import echo

#: How long an orderly stop may take before `down` does it by itself, seconds.
STOP_S = 180.0
_POLL_S = 0.1


@click.command("up")
@click.option("--hypervisor", type=click.Choice(["qemu", "process"]), default="qemu", show_default=True, help="Driver.")
@click.option("--vms", default=2, show_default=True, type=click.IntRange(0, 64), metavar="N", help="Number of VMs.")
@click.option("--memory", default=768, show_default=True, type=click.IntRange(64), metavar="MIB", help="Of each VM.")
@click.option("--cpus", default=1, show_default=True, type=click.IntRange(1, 256), help="Of each VM; one job each.")
@click.option("--detach", is_flag=True, help="Return when it is ready; end it with `volcloud down`.")
@click.option("--job-adapters", default=1, show_default=True, type=click.IntRange(1, 16), metavar="N")
@click.option("--storage-adapters", default=1, show_default=True, type=click.IntRange(1, 16), metavar="N")
@click.option("--ledger", default="", metavar="URL", help="SQLAlchemy URL.  [default: SQLite in the data directory]")
@click.option("--guest-setting", "guest", multiple=True, metavar="NAME=NUMBER", hidden=True)
@click.option("--lease-s", default=90.0, hidden=True)
@click.option("--beat-s", default=15.0, hidden=True)
@data_option
@pass_invocation
def up(
    invocation: Invocation,
    hypervisor: str,
    vms: int,
    memory: int,
    cpus: int,
    detach: bool,
    job_adapters: int,
    storage_adapters: int,
    ledger: str,
    guest: tuple[str, ...],
    lease_s: float,
    beat_s: float,
) -> None:
    """Start a whole system on this machine: broker, key manager, adapters, a host agent and its VMs.

    Everything it keeps is in the data directory. It runs until Ctrl-C, or with --detach until `volcloud down`.

    \b
    Example:
      volcloud up --data ~/cloud --vms 2 --detach
    """
    fields = {
        "data": str(invocation.directory),
        "hypervisor": hypervisor,
        "vms": vms,
        "memory_mib": memory,
        "cpus": cpus,
        "job_adapters": job_adapters,
        "storage_adapters": storage_adapters,
        "ledger": ledger,
        "lease_s": lease_s,
        "beat_s": beat_s,
        "guest": _settings(guest),
    }
    plan = _checked(fields)
    say = _stopwatch()
    if detach:
        pid = start_detached(plan, say)
        say(f"ready; supervisor {pid}, everything in {plan.data}; end it with `volcloud down`")
        return
    asyncio.run(hold_until_signal(plan, say, lambda: say("ready; Ctrl-C ends it")))


@click.command("down")
@data_option
@pass_invocation
def down(invocation: Invocation) -> None:
    """End the system of a data directory: VMs, adapters, key manager, broker. What it keeps stays.

    Whatever an earlier, killed system left is ended too.

    \b
    Example:
      volcloud down --data ~/cloud
    """
    layout = Layout(invocation.directory)
    if not layout.run.is_dir():
        raise CommandFailed(f"{layout.root} holds no system", "name its data directory with --data")
    say = _stopwatch()
    _end_supervisor(layout, say)
    clean_up(layout, say)
    left = [*(f"{one.name} (pid {one.record.pid})" for one in live_processes(layout))]
    if left or node_record(layout) is not None:
        raise CommandFailed(f"still there: {', '.join(left) or 'the broker'}", "`volcloud down` again")
    say(f"nothing runs in {layout.root}")


@click.command("status")
@data_option
@json_option
@pass_invocation
def status(invocation: Invocation) -> None:
    """Show how the system is: processes, broker, queues, hosts, VMs, jobs. Exit status 3 when it is down.

    \b
    Example:
      volcloud status --json
    """
    seen = look(Layout(invocation.directory))
    invocation.show(seen, _render)
    if seen.trouble:
        raise Unreachable(seen.trouble, "`volcloud up` starts it; DIR/log holds what went wrong")


def _end_supervisor(layout: Layout, say: Callable[[str], None]) -> None:
    """Ask for the orderly stop and wait for it; a supervisor that hangs is left to the person."""
    supervisor = live_supervisor(layout)
    if supervisor is None:
        return
    pid = supervisor.record.pid
    say(f"asking the supervisor (pid {pid}) to stop")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while supervisor.is_alive:
        if time.monotonic() > deadline:
            raise CommandFailed(f"the supervisor (pid {pid}) does not stop", f"`kill -9 {pid}`, then `volcloud down`")
        time.sleep(_POLL_S)


def _checked(fields: dict[str, object]) -> Plan:
    try:
        return msgspec.convert(fields, Plan)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from error


def _settings(pairs: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise click.BadParameter(f"{pair!r}: must be NAME=NUMBER", param_hint="--guest-setting") from error
    return found


def _stopwatch() -> Callable[[str], None]:
    """Give a function that prints progress with the time since now."""
    began = time.monotonic()
    return lambda text: echo(f"{time.monotonic() - began:6.1f} s  {text}")


def _render(seen: Overview) -> RenderableType:
    parts: list[RenderableType] = [
        lines([("directory", seen.directory), ("broker", seen.broker), ("management", seen.management)]),
        "",
        _processes(seen),
    ]
    if seen.queues:
        parts += ["", _queues(seen)]
    if seen.hosts:
        parts += ["", render_hosts(seen.hosts), "", render_vms(seen.vms)]
    return Group(*parts, "", lines([("jobs", told_counts(seen.jobs))]))


def _processes(seen: Overview) -> RenderableType:
    shown = table("PROCESS", "PID", "STATE", "SINCE", "RESTARTS", "LAST END")
    for one in seen.processes:
        word = Text("running", style="green") if one.is_alive else Text("gone", style="red")
        shown.add_row(one.name, str(one.pid), word, ago(one.since_ms), str(one.restarts or ""), one.last_end)
    return shown


def _queues(seen: Overview) -> RenderableType:
    shown = table("QUEUE", "MESSAGES", "CONSUMERS")
    for one in seen.queues:
        shown.add_row(one.name, str(one.messages), str(one.consumers))
    return shown
