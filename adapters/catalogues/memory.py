"""A catalogue in memory, for tests of who delivers: the whole contract, and trouble when it is asked for.

Held to the same suite as the real ones. Not for use: what it knows is gone with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from adapters.catalogues.contract import Replica
from adapters.errors import CatalogueError


class MemoryCatalogue:
    """Files by name. ``trouble``, while it is set, is raised by each call, and ``disliked`` names are refused."""

    def __init__(self) -> None:
        self.known: dict[str, Replica] = {}
        self.trouble: CatalogueError | None = None
        #: Why a name is refused.
        self.disliked: dict[str, str] = {}
        #: How many files each call has brought.
        self.calls: list[int] = []
        self.is_closed = False
        self._lock = threading.Lock()

    def register(self, copies: Sequence[Replica]) -> Mapping[str, str]:
        """Know these files; gives, by name, why one is not known, or not as it is."""
        self.try_out()
        with self._lock:
            self.calls.append(len(copies))
            return {copy.name: words for copy in copies if (words := self._register(copy))}

    def try_out(self) -> None:
        """Raise ``trouble``, if there is any."""
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        """Note that nobody needs it any more."""
        self.is_closed = True

    def _register(self, copy: Replica) -> str:
        if words := self.disliked.get(copy.name):
            return words
        known = self.known.setdefault(copy.name, copy)
        if (known.size, known.adler32, known.url) == (copy.size, copy.adler32, copy.url):
            return ""
        there = f"{known.size} bytes with adler32 {known.adler32} at {known.url}"
        return f"known as {there}, and it is {copy.size} bytes with adler32 {copy.adler32} at {copy.url}"
