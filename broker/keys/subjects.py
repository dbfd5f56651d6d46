"""One at a time for each subject: whoever decides about a VM or a site is alone with it, whatever thread he is in."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Subjects:
    """Locks by name, made when they are needed and gone afterwards. For any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def alone_with(self, name: str) -> Iterator[None]:
        """Wait for the others who are at it, then be alone with a subject. One at a time: no thread holds two."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
            self._users[name] += 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._users[name] -= 1
                if not self._users[name]:
                    del self._users[name], self._locks[name]
