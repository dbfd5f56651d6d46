"""What is fed into a spool: a job that can be done by whoever is free is taken, of any other it is said why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from adapters.ledger.matching import nearest
from adapters.sources.contract import Acquired, GridWork, Offer
from adapters.sources.spool_files import (
    date_anew,
    kept_of,
    make_ours,
    names_in,
    read_file,
    read_line,
    strange_names_in,
)
from adapters.sources.spool_tree import DONE, NEW, OUT, TAKEN, tell_lightly

#: What is said of a job file whose name none may have.
NAMES = "a job's name has letters, digits, - and _, begins with a letter or digit, and has 80 characters at most"
#: Does something with one file, whose trouble is its own.
Does = Callable[[str, Callable[[], object]], bool]


class SpoolInbox:
    """See the module."""

    def __init__(self, directory: Path, does: Does) -> None:
        self._directory, self._does = directory, does

    def taken(self, new: Sequence[str], offers: Sequence[Offer], mark: bytes) -> Iterator[Acquired]:
        """Take one after the other; the first names first."""
        for name in strange_names_in(new):
            self._does(name, partial(self._say_refused, name, NAMES))
        for name in names_in(new):
            found: list[Acquired] = []
            self._does(name, partial(self._take, name, offers, found, mark))
            yield from found

    def _take(self, name: str, offers: Sequence[Offer], found: list[Acquired], mark: bytes) -> None:
        """Take a job, if the slots can do it. Raises OSError where its file cannot be taken."""
        new = self._directory / NEW / f"{name}.json"
        words = self._in_its_way(name)
        job = None if words else read_file(new.parent, name)
        if job is not None and job.work:
            words = _unfit(job.work, offers)
        self._say_refused(name, words)
        if job is None or words:
            return
        taken = self._directory / TAKEN / new.name
        try:
            is_dated = date_anew(new)
            new.rename(taken)
        except FileNotFoundError:
            return  # another adapter's
        if not is_dated:
            self._does(taken.name, partial(make_ours, taken))
        if (job := read_file(taken.parent, name, mark)) is not None:
            found.append(job)
        kept_of(new).unlink(missing_ok=True)

    def _in_its_way(self, name: str) -> str:
        """Say why a job waits whose name is another's, that is not cleared away yet; empty: it is not."""
        paths = (f"{TAKEN}/{name}.json", f"{DONE}/{name}.json", f"{OUT}/{name}")
        there = next((path for path in paths if os.path.lexists(self._directory / path)), "")
        return there and f"{there} is there: take it away, or choose another name"

    def _say_refused(self, name: str, words: str) -> None:
        """Tell beside a job why it waits; where nothing is said, it does not."""
        refused = self._directory / NEW / f"{name}.refused"
        if words and read_line(refused).partition(":")[0] != words.partition(":")[0]:
            tell_lightly(refused, f"{words}\n".encode())
        if not words:
            refused.unlink(missing_ok=True)


def _unfit(work: GridWork, offers: Sequence[Offer]) -> str:
    """Say what the free machine that meets most of what a job requires lacks; empty: one meets all."""
    lacking = nearest(work.requirements, [one.machine for one in offers])
    return f"it waits for another machine: {'; '.join(lacking)}" if lacking else ""
