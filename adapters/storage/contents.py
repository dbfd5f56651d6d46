"""What is in the store, gone through and removed: outputs by attempt, inputs by digest.

Nothing here knows whether a file is needed. An input that a job may just be submitted with is not lost: who finds it
there makes it young again, and it is put aside and looked at once more before it goes. Every function blocks.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from adapters.storage.errors import NotStored, StoreError
from adapters.storage.store import ASIDE, UNFINISHED, Store, mapped
from broker import durable
from schemas.ids import JobRef

#: File of the store that says whose it is.
_OWNER = "ledger"


class StoredAttempt(NamedTuple):
    """All that one attempt has stored."""

    job: JobRef
    attempt: int
    size: int
    #: Of its youngest file.
    age_s: float


def stored_attempts(store: Store) -> Iterator[StoredAttempt]:
    """Go through the outputs. Raises StoreError."""
    for owner in _names(store, "outputs"):
        for job in _names(store, f"outputs/{owner}"):
            for attempt in _names(store, f"outputs/{owner}/{job}"):
                if attempt.isdecimal():
                    yield _stored(store, f"{owner}/{job}", int(attempt))


def bytes_of(store: Store, job: JobRef) -> int:
    """Say how many bytes a job has stored. Raises StoreError."""
    return sum(_stored(store, job, int(a)).size for a in _names(store, f"outputs/{job}") if a.isdecimal())


def remove_attempts(store: Store, job: JobRef, up_to: int) -> None:
    """Remove what a job's attempts up to this one stored; nothing there is no error. Raises StoreError."""
    for attempt in _names(store, f"outputs/{job}"):
        if attempt.isdecimal() and int(attempt) <= up_to:
            store.remove_attempt(job, int(attempt))
    with mapped(store.url), contextlib.suppress(OSError):  # a later attempt of a new job of that name keeps it
        store.system.rmdir(f"{store.root}/outputs/{job}")


def old_inputs(store: Store, keep_s: float) -> Iterator[str]:
    """Give the digests of inputs that nobody has asked for or stored within ``keep_s``; of a local store only."""
    if not store.is_local:
        return
    for first in _names(store, "inputs"):
        for digest in _names(store, f"inputs/{first}"):
            if _age_s(store, f"inputs/{first}/{digest}") > keep_s:
                yield digest


def remove_input(store: Store, digest: str, keep_s: float, is_needed: Callable[[str], bool]) -> bool:
    """Remove an input unless it has become young or needed since it was looked for; says whether it went.

    While it is looked at once more it is not there: a submission that needs it just then is told to upload it.
    """
    path = Path(store.root) / "inputs" / digest[:2] / digest
    aside = Path(store.root) / UNFINISHED / f"{digest}{ASIDE}"
    with mapped(store.url):
        aside.parent.mkdir(exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            goes = _age_s(store, f"{UNFINISHED}/{aside.name}") > keep_s and not is_needed(digest)
        except BaseException:
            aside.rename(path)
            raise
        if not goes:
            aside.rename(path)
            durable.sync_directory(path.parent)
        else:
            aside.unlink(missing_ok=True)
        return goes


def put_back(store: Store) -> None:
    """Put inputs back that an adapter had put aside when it was killed, and remove its half written mark. Raises
    StoreError."""
    if not store.is_local:
        return
    with mapped(store.url):
        durable.remove_unfinished(Path(store.root))
    for name in _names(store, UNFINISHED):
        if name.endswith(ASIDE):
            digest = name.removesuffix(ASIDE)
            with mapped(store.url), contextlib.suppress(FileNotFoundError):
                (Path(store.root) / UNFINISHED / name).rename(Path(store.root) / "inputs" / digest[:2] / digest)


def owner(store: Store) -> str:
    """Name the ledger that the store belongs to; empty = none yet. Raises StoreError."""
    path = f"{store.root}/{_OWNER}"
    with mapped(store.url):
        return str(store.system.cat_file(path).decode(errors="replace")).strip() if store.system.exists(path) else ""


def own(store: Store, ledger: str) -> None:
    """Mark the store as this ledger's. Raises StoreError."""
    path = f"{store.root}/{_OWNER}"
    with mapped(store.url):
        store.system.makedirs(store.root, exist_ok=True)
        if store.is_local:
            durable.replace(Path(path), ledger.encode())
        else:
            store.system.pipe_file(path, ledger.encode())


def room(store: Store) -> tuple[int, int] | None:
    """Give the size of the store's disk and what is free of it, bytes; None where that cannot be known."""
    if not store.is_local:
        return None
    with mapped(store.url):
        Path(store.root).mkdir(parents=True, exist_ok=True)
        usage = shutil.disk_usage(store.root)
    return usage.total, usage.free


def _stored(store: Store, job: JobRef, attempt: int) -> StoredAttempt:
    place = f"{store.root}/outputs/{job}/{attempt}"
    try:
        with mapped(store.url):
            files: dict[str, Any] = store.system.find(place, detail=True)
    except NotStored:  # it went while it was looked at
        return StoredAttempt(job, attempt, 0, 0.0)
    names = [name.removeprefix(f"{store.root}/") for name in files]
    age_s = min((_age_s(store, name) for name in names), default=_age_s(store, f"outputs/{job}/{attempt}"))
    return StoredAttempt(job, attempt, sum(one["size"] for one in files.values()), age_s)


def _age_s(store: Store, name: str) -> float:
    """Give the age of a file or directory; of one that has just gone it is 0."""
    with mapped(store.url):
        return store.age_s(f"{store.root}/{name}")


def _names(store: Store, directory: str) -> list[str]:
    place = f"{store.root}/{directory}"
    try:
        with mapped(store.url):
            found = store.system.ls(place, detail=False) if store.system.exists(place) else []
    except StoreError:
        if store.is_local and not Path(place).is_dir():  # it went while it was looked at, or is a file
            return []
        raise
    return sorted(name.rpartition("/")[2] for name in found)
