"""``volcloud``: what people type. The groups of commands are in ``console.commands``; this joins them."""

from __future__ import annotations

from typing import Any

import click

from console.commands.broker import broker
from console.commands.centre import down, status, up
from console.commands.dead import dead
from console.commands.hosts import host
from console.commands.jobs import job
from console.commands.sites import site
from console.commands.vms import vm
from console.invocation import data_option
from console.telling import telling


class Commands(click.Group):
    """The root: every error of the floors below is told here, with its exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see ``console.telling``."""
        with telling():
            return super().invoke(ctx)


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


for _command in (up, down, status, broker, host, vm, job, site, dead):
    cli.add_command(_command)


def main() -> None:
    """Run ``volcloud``."""
    cli(prog_name="volcloud")


if __name__ == "__main__":
    main()
