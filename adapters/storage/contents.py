"""What is in the store, gone through and removed: outputs by attempt, inputs by digest.

Nothing here knows whether a file is needed. An input that a job may just be submitted with is not lost: who finds it
there makes it young again, and it is put aside and looked at once more before it goes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapters.errors import NotStored, StoreError
from adapters.storage.contract import StoredAttempt
from adapters.storage.store import ASIDE, UNFINISHED, FsspecStore, mapped
from broker import durable
from schemas.ids import JobRef

#: File of the store that says whose it is.
_OWNER = "ledger"


class FsspecContents:
    """What is in an ``FsspecStore``. Every method blocks."""

    def __init__(self, store: FsspecStore) -> None:
        self._store = store
        self.url = store.url

    def stored_attempts(self) -> Iterator[StoredAttempt]:
        """Go through the outputs. Raises StoreError."""
        for owner in self._names("outputs"):
            for job in self._names(f"outputs/{owner}"):
                for attempt in self._names(f"outputs/{owner}/{job}"):
                    if attempt.isdecimal():
                        yield self._stored(f"{owner}/{job}", int(attempt))

    def bytes_of(self, job: JobRef) -> int:
        """Say how many bytes a job has stored. Raises StoreError."""
        return sum(self._stored(job, int(a)).size for a in self._names(f"outputs/{job}") if a.isdecimal())

    def remove_attempt(self, job: str, attempt: int) -> None:
        """Remove all that an attempt stored: it did not become the final one. Nothing there is no error."""
        path = f"{self._store.root}/outputs/{job}/{attempt}"
        with mapped(self.url), contextlib.suppress(FileNotFoundError):  # another adapter may do the same
            if self._store.system.exists(path):
                self._store.system.rm(path, recursive=True)

    def remove_attempts(self, job: JobRef, up_to: int) -> None:
        """Remove what a job's attempts up to this one stored; nothing there is no error. Raises StoreError."""
        for attempt in self._names(f"outputs/{job}"):
            if attempt.isdecimal() and int(attempt) <= up_to:
                self.remove_attempt(job, int(attempt))
        with mapped(self.url), contextlib.suppress(OSError):  # a later attempt of a new job of that name keeps it
            self._store.system.rmdir(f"{self._store.root}/outputs/{job}")

    def old_inputs(self, keep_s: float) -> Iterator[str]:
        """Give the digests of inputs that nobody has asked for or stored within ``keep_s``; of a local store only."""
        if not self._store.is_local:
            return
        for first in self._names("inputs"):
            for digest in self._names(f"inputs/{first}"):
                if self._age_s(f"inputs/{first}/{digest}") > keep_s:
                    yield digest

    def remove_input(self, digest: str, keep_s: float, is_needed: Callable[[str], bool]) -> bool:
        """Remove an input unless it has become young or needed since it was looked for; says whether it went.

        While it is looked at once more it is not there: a submission that needs it just then is told to upload it.
        """
        path = Path(self._store.root) / "inputs" / digest[:2] / digest
        aside = Path(self._store.root) / UNFINISHED / f"{digest}{ASIDE}"
        with mapped(self.url):
            aside.parent.mkdir(exist_ok=True)
            try:
                path.rename(aside)
            except FileNotFoundError:
                return False
            try:
                goes = self._age_s(f"{UNFINISHED}/{aside.name}") > keep_s and not is_needed(digest)
            except BaseException:
                aside.rename(path)
                raise
            if not goes:
                aside.rename(path)
                durable.sync_directory(path.parent)
            else:
                aside.unlink(missing_ok=True)
            return goes

    def put_back(self) -> None:
        """Put inputs back that an adapter had put aside when it was killed, and remove its half written mark. Raises
        StoreError."""
        if not self._store.is_local:
            return
        root = Path(self._store.root)
        with mapped(self.url):
            durable.remove_unfinished(root)
        for name in self._names(UNFINISHED):
            if name.endswith(ASIDE):
                digest = name.removesuffix(ASIDE)
                with mapped(self.url), contextlib.suppress(FileNotFoundError):
                    (Path(self._store.root) / UNFINISHED / name).rename(
                        Path(self._store.root) / "inputs" / digest[:2] / digest
                    )

    def owner(self) -> str:
        """Name the ledger that the store belongs to; empty = none yet. Raises StoreError."""
        path = f"{self._store.root}/{_OWNER}"
        with mapped(self.url):
            return (
                str(self._store.system.cat_file(path).decode(errors="replace")).strip()
                if self._store.system.exists(path)
                else ""
            )

    def own(self, ledger: str) -> None:
        """Mark the store as this ledger's. Raises StoreError."""
        path = f"{self._store.root}/{_OWNER}"
        with mapped(self.url):
            self._store.system.makedirs(self._store.root, exist_ok=True)
            if self._store.is_local:
                durable.replace(Path(path), ledger.encode())
            else:
                self._store.system.pipe_file(path, ledger.encode())

    def room(self) -> tuple[int, int] | None:
        """Give the size of the store's disk and what is free of it, bytes; None where that cannot be known."""
        if not self._store.is_local:
            return None
        with mapped(self.url):
            Path(self._store.root).mkdir(parents=True, exist_ok=True)
            usage = shutil.disk_usage(self._store.root)
        return usage.total, usage.free

    def _stored(self, job: JobRef, attempt: int) -> StoredAttempt:
        place = f"{self._store.root}/outputs/{job}/{attempt}"
        try:
            with mapped(self.url):
                files: dict[str, Any] = self._store.system.find(place, detail=True)
        except NotStored:  # it went while it was looked at
            return StoredAttempt(job, attempt, 0, 0.0)
        names = [name.removeprefix(f"{self._store.root}/") for name in files]
        age_s = min((self._age_s(name) for name in names), default=self._age_s(f"outputs/{job}/{attempt}"))
        return StoredAttempt(job, attempt, sum(one["size"] for one in files.values()), age_s)

    def _age_s(self, name: str) -> float:
        """Give the age of a file or directory; of one that has just gone it is 0."""
        with mapped(self.url):
            return self._store.age_s(f"{self._store.root}/{name}")

    def _names(self, directory: str) -> list[str]:
        place = f"{self._store.root}/{directory}"
        try:
            with mapped(self.url):
                found = self._store.system.ls(place, detail=False) if self._store.system.exists(place) else []
        except StoreError:
            if self._store.is_local and not Path(place).is_dir():  # it went while it was looked at, or is a file
                return []
            raise
        return sorted(name.rpartition("/")[2] for name in found)
