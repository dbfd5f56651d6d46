"""``volcloud up``, ``down`` and ``status``: a whole system on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from broker.daemon.logs import log_to_file
from volcloud.amounts import Mib, Whole
from volcloud.centre.detach import start_detached
from volcloud.centre.existing_vms import refuse_unlike
from volcloud.centre.health import Trouble
from volcloud.centre.layout import Layout
from volcloud.centre.overview import Overview, QueueView, look
from volcloud.centre.plan import Plan, read_plan, write_plan
from volcloud.centre.process_state import SUPERVISOR
from volcloud.centre.settings import Settings, differences, read_changes, settle, told
from volcloud.centre.source_plan import check_sources
from volcloud.centre.stopping import clean_up, live_processes, live_supervisor, node_record
from volcloud.centre.supervisor import held_up, hold_until_ended
from volcloud.centre.voice import Voice
from volcloud.errors import CommandFailed, Unreachable
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.hosts import render_hosts
from volcloud.rendering.jobs import told_counts
from volcloud.rendering.vms import render_vms
from volcloud.rendering.words import ago, clock, lines, table

#: How long an orderly stop may take before `down` does it by itself, seconds.
STOP_S = 180.0
_POLL_S = 0.1


@click.command("up")
@click.option("--hypervisor", type=click.Choice(["qemu", "process"]), show_default="qemu", help="Driver.")
@click.option("--vms", show_default="2", type=Whole(0, 64), metavar="N", help="Number of VMs.")
@click.option("--memory", "memory_mib", show_default="768", type=Mib(64), metavar="MIB", help="Of each VM.")
@click.option("--cpus", show_default="1", type=Whole(1, 256), help="Of each VM; one job each.")
@click.option("--detach", is_flag=True, help="Return when it is ready; end it with `volcloud down`.")
@click.option("--job-adapters", show_default="1", type=Whole(1, 16), metavar="N")
@click.option("--storage-adapters", show_default="1", type=Whole(1, 16), metavar="N")
@click.option("--ledger", metavar="URL", help="SQLAlchemy URL.  [default: SQLite in the data directory]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting that was made before.")
@click.option("--guest-setting", "guest", multiple=True, metavar="NAME=NUMBER", hidden=True)
@click.option("--lease-s", type=float, hidden=True)
@click.option("--beat-s", type=float, hidden=True)
@data_option
@pass_invocation
def up(
    invocation: Invocation, /, detach: bool, changes: tuple[str, ...], guest: tuple[str, ...], **options: object
) -> None:
    """Start a whole system on this machine: broker, key manager, adapters, a host agent and its VMs.

    Everything it keeps is in the data directory, also what it consists of: in settings.toml, which the first `up`
    writes from its options and later ones obey. It runs until Ctrl-C, or with --detach until `volcloud down`; without
    --detach also no longer than the process that started it, unless by nohup.

    \b
    Example:
      volcloud up --data ~/cloud --vms 2 --detach
    """
    given = {key: value for key, value in options.items() if value is not None}
    plan = _plan(invocation, given | ({"guest": _settings(guest)} if guest else {}), read_changes(changes))
    voice = Voice()
    for line in _told(plan):
        voice.say(line)
    if detach:
        pid = start_detached(plan, voice.say)
        voice.say(f"ready; supervisor {pid}, everything in {plan.data}; end it with `volcloud down`")
        return
    log_to_file(SUPERVISOR, plan.layout.log(SUPERVISOR))
    write_plan(plan)
    asyncio.run(hold_until_ended(plan, voice.say, lambda: voice.say("ready; Ctrl-C ends it"), follows_starter=True))


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
    say = Voice().say
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
    """Show how the system is: processes, broker, queues, hosts, VMs, jobs, and what is wrong with which part.

    Each part is asked by itself, and the answer comes within ten seconds. Exit status 3 when something is wrong.

    \b
    Example:
      volcloud status --json
    """
    seen = look(Layout(invocation.directory))
    invocation.show(seen, _render)
    if seen.troubles:
        first = seen.troubles[0]
        raise Unreachable(f"{first.part}: {first.what}{_since(first)}", first.mend)


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


def _plan(invocation: Invocation, given: dict[str, object], changes: dict[str, object]) -> Plan:
    """Settle what the system consists of. Raises BadInput, with both values, for what contradicts it."""
    layout = Layout(invocation.directory)
    if live_supervisor(layout) is not None:
        raise held_up(layout)
    layout.make()
    settings = settle(layout.settings, given, changes, partial(_check, layout))
    return _plan_of(layout, settings)


def _check(layout: Layout, wanted: Settings) -> None:
    check_sources(wanted.sources)
    refuse_unlike(_plan_of(layout, wanted))


def _plan_of(layout: Layout, settings: Settings) -> Plan:
    return msgspec.convert({**msgspec.to_builtins(settings), "data": str(layout.root)}, Plan)


def _told(plan: Plan) -> list[str]:
    """Say what is set, and what of it is not as it was at the last start."""
    lines = [f"{plan.layout.settings}: {told(plan)}"]
    return [*lines, *(differences(read_plan(plan.layout.last), plan) if plan.layout.last.exists() else [])]


def _settings(pairs: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise click.BadParameter(f"{pair!r}: must be NAME=NUMBER", param_hint="--guest-setting") from error
    return found


def _render(seen: Overview) -> RenderableType:
    parts: list[RenderableType] = [
        lines([("directory", seen.directory), ("broker", seen.broker), ("management", seen.management)]),
        "",
        _processes(seen),
    ]
    if seen.queues:
        parts += ["", _queues(seen.queues)]
    if seen.hosts:
        parts += ["", render_hosts(seen.hosts), "", render_vms(seen.vms or [])]
    if seen.troubles:
        parts += ["", _troubles(seen.troubles)]
    jobs = "not known: the centre could not be asked" if seen.jobs is None else told_counts(seen.jobs)
    return Group(*parts, "", lines([("jobs", jobs)]))


def _processes(seen: Overview) -> RenderableType:
    shown = table("PROCESS", "PID", "STATE", "SINCE", "RESTARTS", "LAST END")
    for one in seen.processes:
        word = Text(one.state, style="green" if one.state == "running" else "red")
        shown.add_row(one.name, str(one.pid), word, ago(one.since_ms), str(one.restarts or ""), one.last_end)
    return shown


def _troubles(troubles: list[Trouble]) -> RenderableType:
    shown = table("TROUBLE", "SINCE", "WHAT", "NEXT")
    for one in troubles:
        shown.add_row(Text(one.part, style="red"), ago(one.since_ms), one.what, one.mend)
    return shown


def _since(trouble: Trouble) -> str:
    return f", since {clock(trouble.since_ms)}" if trouble.since_ms else ""


def _queues(queues: list[QueueView]) -> RenderableType:
    shown = table("QUEUE", "MESSAGES", "CONSUMERS")
    for one in queues:
        shown.add_row(one.name, str(one.messages), str(one.consumers))
    return shown
