"""Waiting for jobs where a person sees how far they are."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from console.centre_calls import FINAL_STATES
from console.client import Client
from console.rendering import told_counts
from console.screen import LabelColumn, screen
from schemas.ledger import JobRow


def follow(client: Client, name: str) -> list[JobRow]:
    """Wait until all jobs of a name have ended; show their states on standard error meanwhile."""
    console = screen(err=True)
    columns = (LabelColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task(name, total=None)

        def on_change(counts: dict[str, int]) -> None:
            ended = sum(count for state, count in counts.items() if state in FINAL_STATES)
            bars.update(bar, description=told_counts(counts), completed=ended, total=sum(counts.values()))

        return client.wait(name, on_change=on_change)
