"""One transaction of the ledger: its connection, the time, and what it has to tell beside its rows.

A ``Tx`` lives for one call of ``Ledger.write`` or ``Ledger.read`` and is used by one thread. It commits nothing
itself: what it gathered (counts, observations, messages) means something only after ``write`` has returned.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, CursorResult, Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import Executable

from adapters.ledger.deferred import Deferred
from adapters.ledger.known import Known
from adapters.ledger.policy import Policy
from broker.routes import Route
from schemas.events import Event

T = TypeVar("T")

_NOW = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
_LEASE_NOW = text("SELECT now_ms FROM lease_clock WHERE number = 1")
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

#: Key of the one advisory lock under which PostgreSQL matches; any constant that nobody else uses.
MATCHING_LOCK = 0x766F6C636C6F7564
#: Rows that one transaction changes at most where nobody needs all of them at once: some 20 ms, and others write.
PORTION = 1000
#: Values in one IN list; SQLite allows 32,766 parameters, PostgreSQL 65,535.
MOST_IN_LIST = 5000


#: An INSERT that may say ON CONFLICT, which both databases spell alike.
Insert = postgresql.Insert | sqlite.Insert


def insert_into(table: Table, is_sqlite: bool) -> Insert:
    """Begin an INSERT for one of the two databases. Statements that are used often are built once for each."""
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)


class OutboxRow(Struct, frozen=True):
    """A publish to come: a message or a bundle, encoded; ``message_id`` is the message's own, or the bundle's."""

    message_id: str
    exchange: str
    routing_key: str
    body: bytes


class Tx:
    """A transaction in progress."""

    def __init__(
        self,
        connection: Connection,
        known: Known,
        policy: Policy,
        instance: str,
        clock: Callable[[], int] | None,
        lease_clock: Callable[[], int] | None,
    ) -> None:
        self.connection = connection
        self.policy = policy
        #: The adapter's principal, for ``noticed_by``.
        self.instance = instance
        #: What this transaction did and what it refused or ignored, by the name of the metric.
        self.counts: Counter[str] = Counter()
        #: Durations for histograms: name, seconds.
        self.observations: list[tuple[str, float]] = []
        #: Messages put into the outbox here: route, id, body.
        self.gathered: list[tuple[Route, str, bytes]] = []
        #: Offers of slots that became free here, and shapes of jobs that wait since here: ``match`` looks at them.
        self.fresh_offers: set[int] = set()
        self.fresh_shapes: set[int] = set()
        #: What was not done here, so that others may write.
        self.deferred = Deferred()
        #: What happened here to VMs and hosts; written at the end.
        self.happenings: list[Event] = []
        #: Why what a sender has said is of no effect, by sender, for an answer.
        self.refusals: dict[str, str] = {}
        #: Changes of how many jobs there are, by submission, owner and state; written at the end.
        self.tallied: Counter[tuple[int, str, str]] = Counter()
        #: The rows that they became at the end, to be published right after the commit.
        self.outgoing: list[OutboxRow] = []
        self.known = known.layer()
        self._clock = clock
        self._lease_clock = lease_clock

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where one write lock serialises every writer."""
        return self.connection.dialect.name == "sqlite"

    @cached_property
    def now_ms(self) -> int:
        """The database's time, read once; SQLite's is this machine's, since it is on one machine by definition."""
        if self._clock is not None:
            return self._clock()
        if self.is_sqlite:
            return time.time_ns() // 1_000_000
        return int(self.connection.scalar(_NOW) or 0)

    @cached_property
    def lease_now_ms(self) -> int:
        """The time by which leases, beats, waits and ages are judged, read once; see ``clock``."""
        if self._lease_clock is not None:
            return self._lease_clock()
        return int(self.connection.scalar(_LEASE_NOW) or 0)

    @property
    def served_ms(self) -> int:
        """The same, where it was read here; else 0."""
        return int(self.__dict__.get("lease_now_ms", 0))

    def execute(self, statement: Executable, values: Mapping[str, Any] | None = None) -> CursorResult[*tuple[Any, ...]]:
        """Run one statement."""
        return self.connection.execute(statement, values)

    def each(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each of ``rows``; nothing for none."""
        if rows:
            self.connection.execute(statement, rows)

    def insert(self, table: Table) -> Insert:
        """Begin an INSERT that may say ON CONFLICT."""
        return insert_into(table, self.is_sqlite)

    def tell(self, event: Event) -> None:
        """Write down with this transaction what has happened to a VM or a host: see ``happenings``."""
        self.happenings.append(event)

    def serialise_matching(self) -> None:
        """Wait until no other transaction matches; the lock is held to the end of this one."""
        if not self.is_sqlite:
            self.connection.execute(_LOCK, {"key": MATCHING_LOCK})


def portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut ``items`` into lists that fit an IN; yields nothing for none."""
    for start in range(0, len(items), MOST_IN_LIST):
        yield items[start : start + MOST_IN_LIST]
