"""Inputs of a host's own jobs, shown to their guests by the fastest medium that the driver has: the files themselves,
where they lie, and of each guest those of its own job. A host without a medium sends them over the local road."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from broker.errors import TransferFailed
from broker.token_buckets import TokenBuckets
from host_agent.hypervisors.contract import InputMedium
from host_agent.inputs.guests import InputGuests
from host_agent.inputs.serving import DOUBTS, DOUBTS_PER_S, WANTS, WANTS_PER_S, InputHouse, Served
from host_agent.inputs.store import KeptInput
from host_agent.inputs.sums import InputSums
from schemas.errors import ErrorCode


class OwnFiles:
    """The files of the jobs of all guests, by SHA-256; nothing of them is ever changed here."""

    def __init__(self) -> None:
        self.by_vm: dict[str, dict[str, Path]] = {}

    @contextlib.contextmanager
    def lend(self, sha256: str) -> Iterator[None]:
        """Do nothing: they stay where they are."""
        yield

    def find(self, sha256: str) -> KeptInput | None:
        """Give a file. Raises OSError."""
        path = next((paths[sha256] for paths in self.by_vm.values() if sha256 in paths), None)
        return KeptInput(sha256=sha256, size=path.stat().st_size, path=path) if path is not None else None

    def discard_damaged(self, kept: KeptInput) -> None:
        """It is not what the job was given. Raises OSError."""
        raise OSError(0, "has changed since the job was given it", str(kept.path))

    async def demand_right(self, vm: str, sha256: str) -> None:
        """Return where a guest's job is given an input. Raises TransferFailed where it is not."""
        if sha256 not in self.by_vm.get(vm, {}):
            raise TransferFailed(ErrorCode.NOT_FOUND, "is no input of the job of this guest")

    async def fetch(self, sha256: str, vm: str) -> KeptInput:
        """There is nowhere to fetch from. Raises TransferFailed."""
        raise TransferFailed(ErrorCode.NOT_FOUND, "is no input of a job here")

    def received(self, sha256: str) -> int:
        """Nothing comes."""
        return 0


def serve(files: OwnFiles, medium: InputMedium | None) -> InputGuests:
    """Give what serves these to guests."""
    if medium is None:
        return InputGuests()
    wants, doubts = TokenBuckets(WANTS, WANTS_PER_S), TokenBuckets(DOUBTS, DOUBTS_PER_S)
    return InputGuests(InputHouse(files, files, InputSums(), files, medium, Served(), wants, doubts))
