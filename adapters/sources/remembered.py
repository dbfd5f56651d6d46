"""What was said of each of many last: of so many, the oldest of which is forgotten."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Names of which something is remembered: twice the jobs that a source may have at a time.
MOST = 100_000


class Remembered(Generic[K, V]):
    """See the module. Any thread may use it."""

    def __init__(self, most: int | None = None) -> None:
        """``most``: None = as many as may be."""
        self._most = MOST if most is None else most
        self._lock = threading.Lock()
        self._said: OrderedDict[K, V] = OrderedDict()

    def get(self, name: K) -> V | None:
        """Give what was said last."""
        with self._lock:
            return self._said.get(name)

    def put(self, name: K, said: V) -> bool:
        """Note what is said; whether that is news."""
        with self._lock:
            is_news = self._said.get(name) != said
            self._said[name] = said
            self._said.move_to_end(name)
            if len(self._said) > self._most:
                self._said.popitem(last=False)
            return is_news

    def forget(self, name: K) -> None:
        """Nothing is said of it any more. Idempotent."""
        with self._lock:
            self._said.pop(name, None)
