"""The grid store ``local``: a directory of this machine, as a mounted file system of a site is.

A file is written under a hidden name that is locked meanwhile, synced, and renamed; what a killed writer has left goes
when the same file is put again. A mount that has died hangs whoever touches it: every call is made in bounded time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta

from adapters.bounded_calls import BoundedCalls
from adapters.errors import GridStoreError, GridStoreFull, GridStoreRefused, GridStoreUnavailable, NotInGridStore
from adapters.grid_stores.adler32 import adler32_of, adler32_of_file, blocks_of
from adapters.grid_stores.contract import GridStore, StoredCopy
from adapters.grid_stores.names import CopyName, checked
from broker import durable
from broker.daemon.plugins import Plugin, PluginSettings

T = TypeVar("T")

#: What is written or read more slowly than this is given up, bytes a second.
SLOWEST_BYTES_S = 256 << 10
#: Mode of a new file before the process's mask: a grid's store is there to be read by others.
_SHARED = 0o666

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL),
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EFBIG),
}


class LocalGridSettings(PluginSettings, frozen=True, kw_only=True, tag="local"):
    """A directory of this machine."""

    #: The directory, absolute; it must be there.
    directory: Annotated[str, Meta(pattern="^/", description="an absolute path", examples=["/mnt/grid"])] = "/mnt/grid"
    #: What is mounted there counts: without a mount nothing is written.
    is_mount: bool = False
    #: The directory as the grid knows it, such as root://se.example.org//grid; empty: file:// and the path.
    url: str = ""
    #: How long one step may take; with a file a second more for each 256 KiB.
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60


class LocalGridStore:
    """A grid store in a directory. Thread-safe, and so for several processes."""

    def __init__(self, settings: LocalGridSettings) -> None:
        self._root = Path(settings.directory)
        self._is_mount = settings.is_mount
        self._url = (settings.url or self._root.as_uri()).rstrip("/")
        self._timeout_s = settings.timeout_s
        self._calls = BoundedCalls()

    def put(self, local: Path, name: CopyName) -> None:
        """Have a local file in the store under a name, whole, durably, or not at all."""
        path = self._place(name)
        with local.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
        self._bounded(lambda: self._put(local, path, size), size)

    def stat(self, name: CopyName) -> StoredCopy:
        """Read a file from the disk: its size and checksum."""
        path = self._place(name)
        size = self._bounded(lambda: path.stat().st_size)
        return self._bounded(lambda: _read(path), size)

    def url(self, name: CopyName) -> str:
        """Say where others have the file."""
        return f"{self._url}/{self._checked(name)}"

    def remove(self, name: CopyName) -> None:
        """Remove a file. Nothing there is no error."""
        path = self._place(name)
        self._bounded(lambda: _remove(path))

    def try_out(self) -> None:
        """Write a small file and remove it again."""
        path = self._root / f".try-{secrets.token_hex(8)}"

        def attempt() -> None:
            durable.replace(path, b"1")
            path.unlink()

        self._bounded(attempt)

    def close(self) -> None:
        """Nothing is held open."""

    def _put(self, local: Path, path: Path, size: int) -> None:
        if _is_there(local, path, size):
            return
        durable.make_directory(path.parent)
        with contextlib.suppress(OSError):  # where there are no locks, what was left stays
            durable.remove_unfinished(path.parent, path.name)
        with durable.appearing(path, mode=_SHARED) as descriptor, local.open("rb") as source:
            for block in blocks_of(source):
                durable.write_all(descriptor, block)
            if (found := os.fstat(descriptor).st_size) != size:
                raise GridStoreUnavailable(f"grid store {self._url}: it took {found} of {size} bytes; we try again")

    def _bounded(self, call: Callable[[], T], size: int = 0) -> T:
        """Make a call on the directory, with its errors mapped and its time bounded."""

        def checked_call() -> T:
            self._demand_directory()
            return call()

        with self._mapped():
            return self._calls.run(checked_call, self._timeout_s + size / SLOWEST_BYTES_S)

    def _demand_directory(self) -> None:
        """Refuse to write beside a mount that is not there."""
        if not self._root.is_dir():
            raise GridStoreUnavailable(f"grid store {self._url}: there is no directory {self._root}; mount or make it")
        if self._is_mount and not self._root.is_mount():
            raise GridStoreUnavailable(f"grid store {self._url}: nothing is mounted at {self._root}; mount it")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _error(error, self._url) from error

    def _place(self, name: CopyName) -> Path:
        return self._root / self._checked(name)

    def _checked(self, name: CopyName) -> str:
        try:
            return checked(name)
        except ValueError as error:
            raise GridStoreRefused(f"grid store {self._url}: {error}") from error


def _error(error: OSError, url: str) -> GridStoreError:
    if isinstance(error, FileNotFoundError):
        return NotInGridStore(f"grid store {url}: {error}")
    if error.errno in _FULL:
        return GridStoreFull(f"grid store {url}: {error}; free some space there; we try again")
    if error.errno in _REFUSED:
        return GridStoreRefused(f"grid store {url}: {error}; see to it that we may write there")
    return GridStoreUnavailable(f"grid store {url}: {error}; we try again")


def _is_there(local: Path, path: Path, size: int) -> bool:
    """Say whether the file is there already; it is read only where the size agrees."""
    try:
        return path.stat().st_size == size and _read(path).adler32 == adler32_of_file(local)
    except FileNotFoundError:
        return False


def _read(path: Path) -> StoredCopy:
    """Sum up what the disk has, not what memory still has of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        checksum = adler32_of(blocks_of(file))
        return StoredCopy(os.fstat(file.fileno()).st_size, checksum)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    durable.sync_directory(path.parent)


def make_local(settings: LocalGridSettings) -> GridStore:
    """Make the store; the directory is looked for when it is used, since it may be mounted later."""
    return LocalGridStore(settings)


plugin = Plugin(LocalGridSettings, make_local)
