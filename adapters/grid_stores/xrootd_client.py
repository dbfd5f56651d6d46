"""One server by XRootD's own client, which is untyped and one for the process: typed, and with our errors.

Every call is bounded by the client itself, as far as it keeps its word. It keeps connections, makes cut ones anew, and
writes on where the server has come to. The paths that are given here are the server's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from XRootD import client
from XRootD.client.flags import OpenFlags, QueryCode

from adapters.errors import GridStoreUnavailable
from adapters.grid_stores.adler32 import as_said
from adapters.grid_stores.xrootd_status import error_of, is_absent, is_unsupported

T = TypeVar("T")

#: Of the client's settings: tries of a connection; for how long a server that was away is not tried again; how fine its
#: clock is, seconds. Left alone it waits half an hour for an answer, and as long before it tries a server again.
_CLIENT = {"ConnectionRetry": 2, "StreamErrorWindow": 5, "TimeoutResolution": 1}
#: Longest that making one connection may take, and how long after a failed try the next one is made, seconds.
_MOST_CONNECTING_S = 10
#: Longest limit that the client takes, seconds.
_MOST_LIMIT_S = 65535
#: Read at a time, bytes.
_BLOCK_BYTES = 4 << 20


class XrootdServer:
    """A server, or a redirector, at ``root://HOST[:PORT]``. Raises GridStoreError. Thread-safe."""

    def __init__(self, url: str, timeout_s: int) -> None:
        """``timeout_s`` bounds each answer, and each part of a file on its way."""
        self.url = url
        self._timeout_s = timeout_s
        own = {"ConnectionWindow": min(timeout_s, _MOST_CONNECTING_S), "RequestTimeout": timeout_s}
        for name, value in (_CLIENT | own | {"StreamTimeout": timeout_s}).items():
            client.EnvPutInt(name, value)  # what the environment says (XRD_...) stays
        self._files = client.FileSystem(url)

    def upload(self, local: Path, path: str, limit_s: int) -> None:
        """Write a local file into a new one, which the server removes again unless it is closed as it should be.

        Raises OSError where the local file cannot be read.
        """
        process = client.CopyProcess()
        with local.open("rb") as file:
            # The client takes the name for a URL: of ``a?b`` it would send ``a``.
            source, target = f"file:///proc/self/fd/{file.fileno()}", f"{self.url}/{path}"
            process.add_job(source, target, posc=True, mkdir=True, cptimeout=min(limit_s, _MOST_LIMIT_S))
            self._demand((process.prepare(), True))
            self._demand((process.run()[0], True))

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; what was called so is gone."""
        self._demand((self._files.mv(old, new, timeout=self._timeout_s)[0], True))

    def remove(self, path: str) -> None:
        """Remove a file. Nothing there is no error."""
        status, _ = self._files.rm(path, timeout=self._timeout_s)
        if not is_absent(status):
            self._demand((status, True))

    def size(self, path: str) -> int:
        """Ask for a file's size. Raises NotInGridStore."""
        return int(self._demand(self._files.stat(path, timeout=self._timeout_s)).size)

    def adler32(self, path: str, limit_s: int) -> str | None:
        """Ask for a file's checksum, for which the server may have to read it; None: it has none of that kind."""
        asked = f"{path}?cks.type=adler32"
        status, answer = self._files.query(QueryCode.CHECKSUM, asked, timeout=min(limit_s, _MOST_LIMIT_S))
        if is_unsupported(status):
            return None
        text = bytes(self._demand((status, answer))).rstrip(b"\0\n").decode("ascii", "replace")
        kind, _, value = text.partition(" ")
        if kind != "adler32":  # it gives what it has, whatever it is asked for
            return None
        if (checksum := as_said(value)) is None:
            raise GridStoreUnavailable(f"grid store {self.url}: {value[:40]!r} is no adler32; we try again")
        return checksum

    def blocks(self, path: str) -> Iterator[bytes]:
        """Read a file to its end."""
        file = client.File()
        self._demand((file.open(f"{self.url}/{path}", OpenFlags.READ, timeout=self._timeout_s)[0], True))
        try:
            offset = 0
            while block := self._demand(file.read(offset, _BLOCK_BYTES, timeout=self._timeout_s)):
                yield block
                offset += len(block)
        finally:
            file.close(timeout=self._timeout_s)

    def write(self, path: str, content: bytes) -> None:
        """Write bytes into a new file."""
        file = client.File()
        flags = OpenFlags.NEW | OpenFlags.MAKEPATH | OpenFlags.POSC
        self._demand((file.open(f"{self.url}/{path}", flags, timeout=self._timeout_s)[0], True))
        wrote = file.write(content, timeout=self._timeout_s)[0]
        closed = file.close(timeout=self._timeout_s)[0]
        self._demand((wrote, True))
        self._demand((closed, True))

    def _demand(self, answer: tuple[Any, T | None]) -> T:
        """Give what was answered. Raises our error where the status is not ok."""
        status, value = answer
        if not status.ok:
            raise error_of(status, self.url)
        if value is None:
            raise GridStoreUnavailable(f"grid store {self.url}: an answer without content; we try again")
        return value
