"""Waiting for jobs where a person sees how far they are, why nothing moves, and that they go on without him."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from schemas.ledger import SETTLED, JobEvent, JobRecord, JobRow
from volcloud.client import Client
from volcloud.errors import Failure, Unreachable
from volcloud.rendering.jobs import told_counts
from volcloud.rendering.words import clock
from volcloud.screen import LabelColumn, screen
from volcloud.telling import INTERRUPTED, note
from volcloud.why import Explanation

#: Between two looks at a job that is followed, seconds.
LOOK_S = 1.0


def follow(client: Client, name: str) -> list[JobRow]:
    """Wait until all jobs of a name have ended; show their states on standard error meanwhile, and what keeps them."""
    console = screen(err=True)
    columns = (LabelColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _going_on(name),
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars,
    ):
        bar = bars.add_task(name, total=None)
        counted: dict[str, int] = {}
        said: set[str] = set()

        def on_change(counts: dict[str, int]) -> None:
            counted.clear()
            counted.update(counts)
            ended = sum(count for state, count in counts.items() if state in SETTLED)
            bars.update(bar, description=told_counts(counts), completed=ended, total=sum(counts.values()))

        def on_still(why: Explanation) -> None:
            cause = "; ".join([why.cause, *why.waiting_for])
            bars.update(bar, description=f"{told_counts(counted)}: {why.job} is {why.state}: {cause}")
            if not console.is_terminal and cause not in said:
                said.add(cause)
                note(f"{why.job} is {why.state}: {cause}; {why.next_step}")

        tell_trouble = Once("the jobs and this waiting go on")

        def on_trouble(trouble: Unreachable) -> None:
            bars.update(bar, description=f"{told_counts(counted)}: {trouble.message}")
            tell_trouble(trouble)

        return client.jobs.wait(name, on_change=on_change, on_still=on_still, on_trouble=on_trouble)


def follow_one(client: Client, name: str, say: Callable[[str], None]) -> JobRecord:
    """Tell each thing that happens to one job, until it has ended; give all that is known of it then.

    A centre that is away for a while after its first answer is waited for, as ``follow`` does.
    """
    with _going_on(name):
        record, told, tell_trouble = client.jobs.show(name), 0, Once("the jobs and this waiting go on")
        while True:
            for event in record.events[told:]:
                say(_told(event))
            told = len(record.events)
            if record.job.state in SETTLED:
                return record
            time.sleep(LOOK_S)
            record = client.jobs.show(name, on_trouble=tell_trouble)


class Once:
    """Tells a trouble in the way of the waiting, the first time that there is one, and what goes on all the same."""

    def __init__(self, what_goes_on: str) -> None:
        self._what_goes_on = what_goes_on
        self._has_told = False

    def forget(self) -> None:
        """It is over: the next one is told again."""
        self._has_told = False

    def __call__(self, trouble: Unreachable) -> None:
        if not self._has_told:
            self._has_told = True
            note(f"{trouble.message}; {self._what_goes_on}; {trouble.next_step}")


def _told(event: JobEvent) -> str:
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    return "  ".join(filter(None, (clock(event.at_ms), attempt, event.event, event.noticed_by, event.detail)))


@contextmanager
def _going_on(name: str) -> Iterator[None]:
    """Let Ctrl-C end the waiting, and say that it ends nothing else."""
    try:
        yield
    except KeyboardInterrupt as error:
        text = f"interrupted; job {name} goes on without this command"
        step = f"`volcloud job wait {name}` waits for it again; `volcloud job cancel {name}` ends it"
        raise Failure(INTERRUPTED, text, step) from error
