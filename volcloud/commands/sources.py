"""``volcloud source …``: grids from which jobs are fetched."""

from __future__ import annotations

import click

from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.sources import render_sources


@click.group("source")
def source() -> None:
    """Grids from which jobs are fetched: how they are."""


@source.command("list")
@data_option
@json_option
@pass_invocation
def list_sources(invocation: Invocation) -> None:
    """List the sources: when each was asked and gave jobs, what it is still to be told, and what is wrong since when.

    \b
    Example:
      volcloud source list
    """
    with invocation.client() as client:
        rows = client.sources.list()
    invocation.show(rows, render_sources)


@source.command("retry")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def retry(invocation: Invocation, name: str) -> None:
    """Try all of the source NAME again at once that has failed, once what stood in its way is mended: ends of jobs that
    it is to be told, also those that are held, and jobs on their way here.

    \b
    Example:
      volcloud source retry lyon
    """
    with invocation.client() as client:
        row = client.sources.retry(name)
    invocation.show(row, lambda one: render_sources([one]))
    invocation.say(_retried(name, row.retried))


@source.command("delete")
@click.argument("name")
@click.option("--give-up", is_flag=True, help="Its grid is not told any more what it has not been told yet.")
@data_option
@pass_invocation
def delete(invocation: Invocation, name: str, give_up: bool) -> None:
    """Forget the source NAME, whose adapter is not there any more. Its jobs stay where they are, and so does what its
    grid has, as the directory of a spool.

    \b
    Example:
      volcloud source delete lyon
    """
    with invocation.client() as client:
        client.sources.delete(name, give_up=give_up)
    invocation.say(f"{name} is forgotten")


def _retried(name: str, count: int) -> str:
    if not count:
        return f"nothing of {name} has failed and waits for its next try"
    what = "thing that had failed is" if count == 1 else "things that had failed are"
    return f"{count} {what} tried again now"
