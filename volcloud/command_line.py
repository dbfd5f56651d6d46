"""What people type: the groups of commands, joined, and the one way in which each of them ends.

``volcloud.main`` starts it; tests call ``cli`` as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from volcloud.invocation import Invocation, data_option
from volcloud.later import LaterGroup
from volcloud.telling import is_unreachable, judge, told

#: In which module of ``volcloud.commands`` each is.
_COMMANDS = {
    "broker": "broker",
    "dead": "dead",
    "down": "centre",
    "host": "hosts",
    "job": "jobs",
    "site": "sites",
    "source": "sources",
    "status": "centre",
    "up": "centre",
    "vm": "vms",
    "xmlrpc": "xmlrpc",
}


class Commands(LaterGroup):
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
                # Here: it brings much along, and is for the command that failed.
                from volcloud.centre.blame import blamed

                raise blamed(judge(error), context.ensure_object(Invocation).directory) from error


def _wants_json(arguments: list[str]) -> bool:
    """Say whether programs read, also when the arguments turn out to be wrong."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in ours


@click.group(
    cls=Commands,
    later={name: f"volcloud.commands.{module}" for name, module in _COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
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
