"""What a lane is at: several pieces of work, each for as long as it takes; none waits for another.

The ledger knows what was taken by whom. Where a word about that was lost, since the ledger was away, it is told anew
what this lane is at, and has the rest due at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from broker.daemon.tasks import OwnedTasks

K = TypeVar("K")

#: Keeps in the ledger what this adapter has taken and is still at, and has due all else that it has taken.
Renew = Callable[[Tx, Sequence[K]], None]
#: Pieces that are taken, and how often their claims in the ledger are renewed, seconds.
MOST_TAKEN, RENEW_S = 200, 60.0


class AtWork(Generic[K]):
    """See the module. Belongs to one loop."""

    def __init__(self, owner: str, writer: LedgerWriter, renew: Renew[K]) -> None:
        """``renew`` tells the ledger what is still at work, by its keys."""
        self._tasks = OwnedTasks(owner)
        self._writer, self._renew = writer, renew
        self._keys: set[K] = set()
        self._renewed_s = time.monotonic()
        #: What the ledger has as taken by this adapter may be more than what is at work.
        self._is_doubtful = False

    @property
    def has_room(self) -> bool:
        """Whether more may be taken."""
        return len(self._keys) < MOST_TAKEN

    @property
    def is_idle(self) -> bool:
        """Whether nothing is at work."""
        return not self._keys

    def has(self, key: K | None) -> bool:
        """Whether a piece is at work."""
        return key in self._keys

    def begin(self, key: K, work: Callable[[], Awaitable[None]]) -> None:
        """Do a piece of work: it takes its turns with others where it calls the grid, and deals with its failures."""
        self._keys.add(key)
        self._tasks.spawn(self._do(key, work))

    async def renew(self, others: Iterable[K] = ()) -> None:
        """Tell the ledger what is at work, when it is time or in doubt; ``others`` are what the lane has beside.

        Nothing may be taken meanwhile. What comes into doubt meanwhile is told the next time. Raises LedgerError.
        """
        if not self._is_doubtful and time.monotonic() - self._renewed_s < RENEW_S:
            return
        keys = sorted(self._keys | set(others), key=str)
        self._renewed_s, self._is_doubtful = time.monotonic(), False
        await self.write(partial(_renewing, self._renew, keys))

    def doubt(self) -> None:
        """Have the ledger told with the next ``renew``: something was taken, and is not at work."""
        self._is_doubtful = True

    @contextlib.contextmanager
    def doubting(self) -> Iterator[None]:
        """Doubt after whatever goes wrong within."""
        try:
            yield
        except BaseException:
            self.doubt()
            raise

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        """Write the ledger about what is taken, or is done; where that fails it is told later what is at work."""
        with self.doubting():
            return await self._writer.write(work)

    async def close(self) -> None:
        """End what is at work; whoever takes it up goes on. Idempotent."""
        await self._tasks.cancel()

    async def _do(self, key: K, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with self.doubting():
                await work()
        finally:
            self._keys.discard(key)


def _renewing(renew: Renew[Any], keys: Sequence[Any], tx: Tx) -> None:
    renew(tx, keys)
