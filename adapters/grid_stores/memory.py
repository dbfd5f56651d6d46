"""A grid store in memory, for tests of who delivers: the whole contract, and variants that fail as real stores do.

Held to the same suite as the real ones. Not for use: what it has is gone with the process.
"""

from __future__ import annotations

import threading
import zlib
from pathlib import Path

from adapters.errors import GridStoreError, GridStoreRefused, GridStoreUnavailable, NotInGridStore
from adapters.grid_stores.contract import StoredCopy
from adapters.grid_stores.names import CopyName, checked

#: Its URL's beginning.
MEMORY_URL = "memory://grid"


class MemoryGridStore:
    """Files by name. ``trouble``, while it is set, is raised by every call that asks the store. Thread-safe."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        #: What was asked, in order: the method and the name.
        self.calls: list[tuple[str, str]] = []
        self.trouble: GridStoreError | None = None
        self.is_closed = False
        self._lock = threading.Lock()

    def put(self, local: Path, name: CopyName) -> None:
        """Keep a file's bytes under a name."""
        self._asked("put", name)
        content = local.read_bytes()
        with self._lock:
            self.files[_checked(name)] = self._as_kept(content)

    def stat(self, name: CopyName) -> StoredCopy:
        """Give size and checksum of what is kept."""
        self._asked("stat", name)
        with self._lock:
            content = self.files.get(_checked(name))
        if content is None:
            raise NotInGridStore(f"grid store {MEMORY_URL}: there is no {name}")
        return StoredCopy(len(content), f"{zlib.adler32(content):08x}")

    def url(self, name: CopyName) -> str:
        """Give a URL that nobody can open."""
        return f"{MEMORY_URL}/{_checked(name)}"

    def remove(self, name: CopyName) -> None:
        """Forget a file."""
        self._asked("remove", name)
        with self._lock:
            self.files.pop(_checked(name), None)

    def try_out(self) -> None:
        """Raise ``trouble``, if there is any."""
        self._asked("try_out", "")

    def close(self) -> None:
        """Note that nobody needs it any more."""
        self.is_closed = True

    def _asked(self, verb: str, name: str) -> None:
        with self._lock:
            self.calls.append((verb, name))
        if self.trouble is not None:
            raise self.trouble

    def _as_kept(self, content: bytes) -> bytes:
        return content


class DamagingGridStore(MemoryGridStore):
    """Keeps its first files with a byte that is another one: the size is right, the checksum is not."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self._left = times

    def _as_kept(self, content: bytes) -> bytes:
        if self._left <= 0 or not content:
            return content
        self._left -= 1
        return bytes([content[0] ^ 1]) + content[1:]


class FlakyGridStore(MemoryGridStore):
    """Is away the first times that it is asked anything."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self._left = times

    def _asked(self, verb: str, name: str) -> None:
        super()._asked(verb, name)
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                raise GridStoreUnavailable(f"grid store {MEMORY_URL}: the connection was cut; we try again")


def _checked(name: str) -> str:
    try:
        return checked(name)
    except ValueError as error:
        raise GridStoreRefused(f"grid store {MEMORY_URL}: {error}") from error
