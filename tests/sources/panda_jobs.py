"""Jobs as PanDA's users submit them, to the real server and to the one that plays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

#: The queue of these tests, and the words of PanDA for a storage that it does not know.
QUEUE, NO_ENDPOINT = "VOLUNTEERS", "PANDA_UNDEFINED2"
SCOPE, DATASET = "user.alice", "user.alice.data"
GUID = "11111111-2222-3333-4444-555555555555"


class PandaGrid(Protocol):
    """A PanDA server with its users."""

    url: str

    def submit(self, job: Mapping[str, Any], files: Sequence[Mapping[str, Any]] = ()) -> int:
        """Submit a job, and have it wait at the queue; gives its number."""

    def kill(self, job: int) -> None:
        """Kill a job as its owner does."""

    def status(self, job: int) -> tuple[str, int]:
        """Read how a job is, and its try, as a pilot does."""

    def tend(self) -> None:
        """Have PanDA's daemon look at the reports that there are."""

    def give_up(self, job: int) -> None:
        """Have PanDA's daemon give up a job of which nobody has spoken for half an hour."""

    def cached(self, name: str) -> bytes:
        """Read a file of the server's cache."""

    def pilot(self, lasts_s: float = 3600) -> str:
        """Give a token with the role of production."""

    def user(self) -> str:
        """Give a token of a user with no role."""


def job(transformation: str = "/bin/echo", arguments: str = "hello", **more: Any) -> dict[str, Any]:
    """Describe a job, in the names of PanDA's tables."""
    usual = {
        "jobName": "hello",
        "jobDefinitionID": 1,
        "prodSourceLabel": "user",
        "transformation": transformation,
        "jobParameters": arguments,
        "computingSite": QUEUE,
        "cloud": "V",
        "VO": "voluntary",
        "prodUserID": "Alice",
        "prodUserName": "Alice",
        "attemptNr": 0,
        "maxAttempt": 3,
        "currentPriority": 1000,
        "coreCount": 1,
        "minRamCount": 0,
        "maxDiskCount": 0,
        "maxCpuCount": 0,
        "maxWalltime": 600,
        "jediTaskID": 7,
        "taskID": 7,
        "resource_type": "SCORE",
        "processingType": "test",
        "destinationDBlock": DATASET,
        "AtlasRelease": "NULL",
        "homepackage": "NULL",
        "prodSeriesLabel": "test",
    }
    return {**usual, **more}


def file(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """Describe a file: ``input``, ``output`` or ``log``."""
    usual = {"type": kind, "lfn": name, "scope": SCOPE, "dataset": DATASET, "destinationDBlock": DATASET}
    known = {"destinationSE": QUEUE, "fsize": 0, **({"GUID": GUID} if kind != "output" else {})}
    return {**usual, **known, **more}
