"""The ledger: a database that is opened, brought to the newest tables, and used one transaction at a time.

It decides nothing about jobs; the modules beside it do, on the ``Tx`` that it hands them. What ``write`` returned has
happened and is on the disk; what raised has not happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from sqlalchemy import Engine

from adapters.errors import Contended, LedgerError
from adapters.ledger import happenings, outbox, tallies
from adapters.ledger.connections import Engines, connect, mapped, shorten_log
from adapters.ledger.known import Known
from adapters.ledger.migrations import migrate
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from broker.backoff import backoff

T = TypeVar("T")

#: How often a transaction that lost against others is tried, and the bounds of the waits between, seconds.
TRIES = 8
FIRST_WAIT_S, MOST_WAIT_S = 0.01, 0.5
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


class Ledger:
    """The ledger at ``url``: ``sqlite:////path`` or ``postgresql://user@host/name``.

    Every method blocks; the adapter calls ``write`` and ``write_lightly`` on its one writer thread, ``read`` on any.
    ``synchronous`` is SQLite's pragma; below FULL a power cut may undo what was acknowledged.
    """

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "FULL",
        instance: str = "adapter-local",
        policy: Policy | None = None,
        clock: Callable[[], int] | None = None,
        lease_clock: Callable[[], int] | None = None,
    ) -> None:
        """``clock`` and ``lease_clock`` stand in for the database's clock and the lease clock, ms, in tests."""
        if synchronous not in _SYNCHRONOUS:
            raise LedgerError(f"synchronous = {synchronous!r}: must be one of {', '.join(_SYNCHRONOUS)}")
        self._url = url
        self._synchronous = synchronous
        self._instance = instance
        self._policy = policy or Policy()
        self._clock, self._lease_clock = clock, lease_clock
        self._known = Known()
        self._served_ms = 0
        self._engines: Engines | None = None

    @property
    def instance(self) -> str:
        """The adapter's name, under which it signs what it does."""
        return self._instance

    def served_s(self) -> float:
        """Give the lease clock as a transaction of this process read it last, seconds; for ages of files."""
        return self._served_ms / 1000

    def open(self) -> None:
        """Connect and migrate to the newest tables; safe in several processes at once, and when already open.

        Raises LedgerUnavailable when the database cannot be reached, LedgerError when a newer release has migrated it.
        """
        if self._engines is not None:
            return
        engines = connect(self._url, self._synchronous)
        self._retried(lambda: migrate(engines.durable))
        self._engines = engines
        self.read(lambda tx: tx.lease_now_ms)

    def close(self) -> None:
        """Close every connection; idempotent."""
        engines, self._engines = self._engines, None
        for engine in engines or ():
            engine.dispose()

    def write(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` in one transaction that is durable on return.

        ``work`` may run several times and must change nothing but its ``Tx``; what it raises rolls back and comes
        out. Raises Contended after bounded retries, LedgerUnavailable when the outcome may be unknown.
        """
        return self._retried(lambda: self._run(self._open_engines.durable, work))

    def write_lightly(self, work: Callable[[Tx], T]) -> T:
        """Like ``write``, but without waiting for the disk: a power cut may undo it, and nothing but it.

        For what is said again anyway: beats and inventories. The next ``write`` makes it durable too.
        """
        return self._retried(lambda: self._run(self._open_engines.light, work))

    def read(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` on a connection that does not wait for writers; it must change nothing."""
        return self._run(self._open_engines.reader, work)

    def tidy(self) -> None:
        """Bring SQLite's log back to nothing once it is long; PostgreSQL looks after its own.

        It grows for as long as there is always somebody who reads. Raises LedgerUnavailable.
        """
        shorten_log(self._open_engines.durable)

    @property
    def _open_engines(self) -> Engines:
        if self._engines is None:
            raise LedgerError("the ledger is not open")
        return self._engines

    def _run(self, engine: Engine, work: Callable[[Tx], T]) -> T:
        with mapped():
            with engine.begin() as connection:
                tx = Tx(connection, self._known, self._policy, self._instance, self._clock, self._lease_clock)
                result = work(tx)
                tallies.write(tx)
                outbox.write(tx)
                happenings.write(tx)
            self._known.keep(tx.known)
            self._served_ms = tx.served_ms or self._served_ms
            return result

    def _retried(self, attempt: Callable[[], T]) -> T:
        for wait_s in islice(backoff(FIRST_WAIT_S, MOST_WAIT_S), TRIES - 1):
            try:
                return attempt()
            except Contended:
                time.sleep(wait_s)
        return attempt()
