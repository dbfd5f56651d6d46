"""A directory of an XRootD server as a grid store.

A file is written as persisting on a successful close, under a hidden name of its own, so that a server which keeps that
promise removes what a killed or cut-off writer has left; then it is renamed. What the client does not bound in time is
bounded here.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from adapters.bounded_calls import BoundedCalls
from adapters.errors import GridStoreError, GridStoreRefused, GridStoreUnavailable, NotInGridStore
from adapters.grid_stores.adler32 import adler32_of, adler32_of_file
from adapters.grid_stores.contract import StoredCopy
from adapters.grid_stores.names import CopyName, checked
from adapters.grid_stores.xrootd_client import XrootdServer

T = TypeVar("T")

#: What is sent, read, or summed up by a server more slowly than this is given up, bytes a second.
SLOWEST_BYTES_S = 256 << 10
#: How much longer than the client's own limit we wait before we believe that it does not keep it, seconds.
_GRACE_S = 10
#: How often an upload is begun: it may come back after a cut to what the server has cleared away by then.
_TRIES = 2

_log = logging.getLogger(__name__)


class XrootdStore:
    """A grid store behind ``root://``. Thread-safe; several of one process share the client's connections."""

    def __init__(self, url: str, timeout_s: int) -> None:
        """``url`` is a directory's, such as ``root://se.example.org//grid``."""
        scheme, _, rest = url.partition("://")
        server, _, path = rest.partition("/")
        self._root = url.rstrip("/")
        self._path = path.rstrip("/")
        self._timeout_s = timeout_s
        self._calls = BoundedCalls()
        self._server = XrootdServer(f"{scheme}://{server}", timeout_s)
        self._has_checksums = True

    def put(self, local: Path, name: CopyName) -> None:
        """Have a local file in the store under a name, whole or not at all."""
        path = self._place(name)
        with local.open("rb") as file:
            size = file.seek(0, 2)
        for _ in range(_TRIES):
            if self._is_there(local, path, size):
                return
            with contextlib.suppress(NotInGridStore):
                self._put(local, path, size)
                return
        raise GridStoreUnavailable(f"grid store {self._root}: {name} was gone before it was whole; we try again")

    def stat(self, name: CopyName) -> StoredCopy:
        """Ask the store how large a file is and what its checksum is."""
        path = self._place(name)
        size = self._size(path)
        return StoredCopy(size, self._checksum(path, size))

    def url(self, name: CopyName) -> str:
        """Say where others have the file."""
        return f"{self._root}/{self._checked(name)}"

    def remove(self, name: CopyName) -> None:
        """Remove a file. Nothing there is no error."""
        path = self._place(name)
        self._bounded(lambda: self._server.remove(path), self._timeout_s)

    def try_out(self) -> None:
        """Write a small file and remove it again."""
        path = f"{self._path}/.try-{secrets.token_hex(8)}"
        self._bounded(lambda: self._server.write(path, b"1"), 3 * self._timeout_s)
        self._bounded(lambda: self._server.remove(path), self._timeout_s)

    def close(self) -> None:
        """Nothing is to be dropped: connections are the process's, and the client closes those that idle."""

    def _put(self, local: Path, path: str, size: int) -> None:
        directory, _, last = path.rpartition("/")
        fresh = f"{directory}/.{last}.{secrets.token_hex(8)}"
        try:
            self._upload(local, fresh, size)
            self._bounded(lambda: self._server.rename(fresh, path), self._timeout_s)
        except GridStoreError:
            self._forget(fresh)
            raise

    def _is_there(self, local: Path, path: str, size: int) -> bool:
        """Say whether the file is there already. Its checksum is asked for only where the size agrees."""
        try:
            return self._size(path) == size and self._checksum(path, size) == adler32_of_file(local)
        except NotInGridStore:
            return False

    def _upload(self, local: Path, fresh: str, size: int) -> None:
        limit_s = self._limit_s(size)
        self._bounded(lambda: self._server.upload(local, fresh, limit_s), limit_s)
        if (found := self._size(fresh)) != size:
            raise GridStoreUnavailable(f"grid store {self._root}: it took {found} of {size} bytes; we try again")

    def _forget(self, fresh: str) -> None:
        """Remove what was written in vain, now if the server is there; else it does so itself."""
        try:
            self._bounded(lambda: self._server.remove(fresh), self._timeout_s)
        except GridStoreError as error:
            _log.info("an unfinished file is left to the store", extra={"file": fresh, "why": str(error)})

    def _size(self, path: str) -> int:
        return self._bounded(lambda: self._server.size(path), self._timeout_s)

    def _checksum(self, path: str, size: int) -> str:
        """Have the server sum the file up; where it does not do that, read it back and do so here."""
        limit_s = self._limit_s(size)
        if self._has_checksums:
            said = self._bounded(lambda: self._server.adler32(path, limit_s), limit_s)
            if said is not None:
                return said
            self._has_checksums = False
            _log.warning(
                "the server has no adler32: each file is read back, as slowly as it came; have it set up there"
                " (xrootd.chksum adler32)",
                extra={"store": self._root},
            )
        return self._bounded(lambda: adler32_of(self._server.blocks(path)), limit_s)

    def _bounded(self, call: Callable[[], T], limit_s: int) -> T:
        try:
            return self._calls.run(call, limit_s + _GRACE_S)
        except TimeoutError as error:
            raise GridStoreUnavailable(f"grid store {self._root}: {error}; we try again") from error

    def _limit_s(self, size: int) -> int:
        return self._timeout_s + size // SLOWEST_BYTES_S

    def _place(self, name: CopyName) -> str:
        return f"{self._path}/{self._checked(name)}"

    def _checked(self, name: CopyName) -> str:
        try:
            return checked(name)
        except ValueError as error:
            raise GridStoreRefused(f"grid store {self._root}: {error}") from error
