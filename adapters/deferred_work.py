"""What transactions have left to others, done in the background: a portion a transaction, and others write in between.

Nothing is lost where it fails or the adapter ends: a sweep finds what is left in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from adapters.errors import LedgerError
from adapters.ledger import assignments
from adapters.ledger.deferred import Deferred
from adapters.ledger.transaction import Tx

log = logging.getLogger(__name__)


class DeferredWork:
    """See the module. Belongs to the adapter's loop."""

    def __init__(
        self,
        write: Callable[[Callable[[Tx], Any]], Awaitable[Any]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """``write`` does a transaction and hands what it has left to ``take``; ``start`` runs a task."""
        self._write, self._start = write, start
        self._deferred = Deferred()
        self._is_at_work = False

    def take(self, deferred: Deferred) -> None:
        """Take what a transaction has left, and see to it."""
        self._deferred.take_over(deferred)
        if self._deferred and not self._is_at_work:
            self._is_at_work = True
            self._start(self._work())

    async def _work(self) -> None:
        try:
            while self._deferred:
                deferred, self._deferred = self._deferred, Deferred()
                await self._write(partial(assignments.go_on, deferred=deferred))
        except LedgerError as error:
            log.warning("left for the next sweep", extra={"why": str(error)})
        finally:
            self._is_at_work = False
