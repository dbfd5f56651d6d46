"""What the adapters ask of a store: files in and out under their names, and what is there gone through and removed.

Every method blocks and may be called from any thread, and all raise StoreError where the store is away, full or
refusing. A file appears under its name whole, durably, and by one step; what an attempt stored means nothing until the
ledger points to it. One suite of tests runs over all stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from schemas.files import InputFile, OutputFile
from schemas.ids import JobRef

StoredFile = InputFile | OutputFile


class StoredAttempt(NamedTuple):
    """All that one attempt has stored."""

    job: JobRef
    attempt: int
    size: int
    #: Of its youngest file.
    age_s: float


class Store(Protocol):
    """Files in and out: inputs by digest, outputs by attempt."""

    def holds(self, file: StoredFile, size: int) -> bool:
        """Say whether a file of that name and size is there, its name durable. An input's name is its digest; of an
        output the digest is to be looked at."""

    def state(self, file: StoredFile) -> str:
        """Tell a file's present bytes from those that it may have later. Raises NotStored."""

    def size(self, file: StoredFile) -> int:
        """Give a file's size. Raises NotStored."""

    def digest(self, file: StoredFile) -> tuple[int, str]:
        """Read a file: its size and SHA-256. Raises NotStored."""

    def read(self, file: StoredFile, offset: int, size: int) -> bytes:
        """Read ``size`` bytes of a file, or what there is up to its end. Raises NotStored."""

    def has_input(self, sha256: str) -> bool:
        """Say whether an input is there. It is young from then on: what a job is submitted with is not cleared away."""

    def put(self, local: Path, file: StoredFile) -> None:
        """Store a local file, which is gone afterwards. On failure what was stored is as before, and so is the file."""

    def put_bytes(self, content: bytes, file: StoredFile) -> None:
        """Store bytes. On failure what was stored is as before."""

    def local(self, file: StoredFile) -> Path | None:
        """Give a file's path on this machine; None where it has to be copied. Raises NotStored."""

    def copy(self, file: StoredFile, target: Path) -> None:
        """Copy a file into a new one of this machine; nothing of that is left after a failure. Raises NotStored."""

    def stored_bytes(self, file: OutputFile) -> int:
        """Say how many bytes the other outputs of an output's attempt have."""

    def try_out(self) -> None:
        """Write a small file and remove it again; raises where none can be written."""

    def remove_unfinished(self, keep_s: float) -> list[str]:
        """Remove what was begun over ``keep_s`` ago by who was killed; give its names.

        What looks old for the first time is left until the next look: a clock may just have been set right.
        """


class StoreContents(Protocol):
    """What is in a store, whoever needs it: gone through and removed."""

    url: str

    def stored_attempts(self) -> Iterator[StoredAttempt]:
        """Go through the outputs."""

    def bytes_of(self, job: JobRef) -> int:
        """Say how many bytes a job has stored."""

    def remove_attempt(self, job: JobRef, attempt: int) -> None:
        """Remove all that an attempt stored. Nothing there is no error."""

    def remove_attempts(self, job: JobRef, up_to: int) -> None:
        """Remove what a job's attempts up to this one stored. Nothing there is no error."""

    def old_inputs(self, keep_s: float) -> Iterator[str]:
        """Give the digests of inputs that nobody has asked for or stored within ``keep_s``; none where files do not
        become young again by being asked for."""

    def remove_input(self, digest: str, keep_s: float, is_needed: Callable[[str], bool]) -> bool:
        """Remove an input unless it has become young or needed since it was looked for; says whether it went."""

    def put_back(self) -> None:
        """Put back what an adapter that was killed had not removed to the end."""

    def owner(self) -> str:
        """Name the ledger that the store belongs to; empty: none yet."""

    def own(self, ledger: str) -> None:
        """Mark the store as this ledger's."""

    def room(self) -> tuple[int, int] | None:
        """Give the size of the store's disk and what is free of it, bytes; None where that cannot be known."""
