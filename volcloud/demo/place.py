"""Where the demo lives: one directory below the user's cache, so that a run finds what a killed one left.

One demo at a time, by a lock that a killed process lets go of.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from volcloud.centre.guest_image import cache_directory
from volcloud.centre.layout import Layout
from volcloud.centre.stopping import Say, clean_up
from volcloud.errors import BadInput, CommandFailed

_NEXT = "run it in a checkout of Volunteer Cloud: `make demo`"


class DemoPlace(msgspec.Struct, frozen=True):
    """The directories of the demo."""

    root: Path

    @property
    def layout(self) -> Layout:
        """The data directory of its system."""
        return Layout(self.root / "data")

    @property
    def job(self) -> Path:
        """The job's files, as a submitter has them."""
        return self.root / "job"

    @property
    def results(self) -> Path:
        """What came back, a directory a job."""
        return self.root / "results"

    @property
    def native(self) -> Path:
        """The run without any of us."""
        return self.root / "native"

    @property
    def picture(self) -> Path:
        """The histogram."""
        return self.root / "multiplicity.png"

    @property
    def merged(self) -> Path:
        """The merged figures."""
        return self.root / "merged.json"


def default_place() -> DemoPlace:
    """Give the user's own."""
    return DemoPlace(cache_directory() / "demo")


@contextmanager
def occupied(place: DemoPlace) -> Iterator[None]:
    """Keep a second demo out. Raises CommandFailed."""
    place.root.mkdir(parents=True, exist_ok=True)
    with (place.root / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandFailed(f"a demo runs already in {place.root}", "wait for it, or use --directory") from error
        yield


def clear(place: DemoPlace, say: Say) -> None:
    """End what a killed run left, by its records, and remove its files. Idempotent, blocking. Raises CommandFailed."""
    clean_up(place.layout, say)
    for path in (place.layout.root, place.job, place.results, place.native):
        if path.exists():
            say(f"removing {path}")
            shutil.rmtree(path)
    for path in (place.picture, place.merged):
        path.unlink(missing_ok=True)


def example() -> Path:
    """Find the physics job. Raises BadInput when this is no checkout."""
    directory = Path(__file__).resolve().parents[2] / "examples" / "pythia"
    if not (directory / "job.toml").is_file():
        raise BadInput(f"the demo's job is not in {directory}", _NEXT)
    return directory
