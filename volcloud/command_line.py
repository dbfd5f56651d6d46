"""What people type: the groups of commands, joined, and the one way in which each of them ends.

``volcloud.main`` starts it; tests call ``cli`` as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from volcloud.centre.health import LOOK_S, Trouble, at_a_glance, since
from volcloud.centre.layout import Layout
from volcloud.commands.broker import broker
from volcloud.commands.centre import down, status, up
from volcloud.commands.dead import dead
from volcloud.commands.detached import attach, kill, ps
from volcloud.commands.execs import run
from volcloud.commands.files import pull, push
from volcloud.commands.hosts import host
from volcloud.commands.jobs import job
from volcloud.commands.looks import log, screenshot, stats
from volcloud.commands.shell import shell
from volcloud.commands.sites import site
from volcloud.commands.snapshots import snapshot
from volcloud.commands.vm_events import events
from volcloud.commands.vm_show import show
from volcloud.commands.vms import vm
from volcloud.commands.xmlrpc import xmlrpc
from volcloud.errors import Failure
from volcloud.invocation import Invocation, data_option
from volcloud.rendering.words import ago, clock
from volcloud.telling import is_unreachable, judge, told


class Commands(click.Group):
    """The root. Every command ends here: what went wrong is told, and the exit status says so."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit; see ``volcloud.telling``."""
        arguments = list(sys.argv[1:] if args is None else args)
        name = prog_name or "volcloud"
        self._main_shell_completion(extra, name, complete_var)
        sys.exit(told(lambda: self._run(name, arguments, extra), is_json=_wants_json(arguments)))

    def _run(self, name: str, arguments: list[str], extra: dict[str, Any]) -> object:
        with self.make_context(name, arguments, **extra) as context:
            try:
                return self.invoke(context)
            except Exception as error:
                if not is_unreachable(error):
                    raise
                raise _blamed(judge(error), context.ensure_object(Invocation).directory) from error


def _blamed(failure: Failure, directory: Path) -> Failure:
    """Add to what a command says of a system that it cannot reach which of its parts is to blame."""
    layout = Layout(directory)
    found = since(layout, at_a_glance(layout))
    if not found:
        return failure
    message = "; ".join([failure.message, *(_told(one) for one in found)])
    return Failure(failure.exit_status, message, "; ".join(one.mend for one in found))


def _told(trouble: Trouble) -> str:
    """Tell a trouble and since when; one that the supervisor has not seen yet is as young as its last look."""
    when = f"since {clock(trouble.since_ms)}, {ago(trouble.since_ms)}" if trouble.since_ms else f"within {LOOK_S:.0f} s"
    return f"{trouble.part} {trouble.what} ({when})"


def _wants_json(arguments: list[str]) -> bool:
    """Say whether programs read, also when the arguments turn out to be wrong."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in ours


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="volunteer-cloud")
@data_option
def cli() -> None:
    """Run physics jobs in virtual machines on computers that are not yours.

    The system is found by --data, VOLCLOUD_DATA, or the user's data directory. Exit status: 0 ok, 1 the job or command
    failed, 2 usage, 3 the system cannot be reached.

    \b
    Example:
      volcloud up --detach && volcloud job submit examples/hello.toml --wait && volcloud down
    """


for _command in (run, shell, ps, attach, kill, push, pull, snapshot, stats, screenshot, log, show, events):
    vm.add_command(_command)
for _command in (up, down, status, broker, host, vm, job, site, dead, xmlrpc):
    cli.add_command(_command)
