"""Connections to the two databases, how each begins a transaction, and the one place that maps their errors.

SQLite: WAL, BEGIN IMMEDIATE for whatever writes, a plain BEGIN for what reads. PostgreSQL: READ COMMITTED, which
``adapters.ledger.assignments`` relies on. Nothing here knows a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from adapters.errors import Conflict, Contended, LedgerError, LedgerUnavailable
from adapters.ledger.verdicts import Decision, of_sqlite, of_sqlstate

if TYPE_CHECKING:
    from psycopg import Connection as PostgresqlConnection

#: How long a statement of SQLite waits for the write lock, ms.
BUSY_TIMEOUT_MS = 10_000
#: Beyond this SQLite's log is cut, bytes; and how long that waits for others, ms: writers wait meanwhile.
MOST_LOG_BYTES = 64 << 20
LOG_PATIENCE_MS = 200
#: For how long PostgreSQL keeps a transaction whose program says nothing, and what that has locked, ms: it was stopped,
#: or its machine is gone. And how long a connection may take to come about, seconds.
IDLE_MS, CONNECT_S = 30_000, 10
_IDLE = "idle_in_transaction_session_timeout"
_BOUND = f"SELECT set_config('{_IDLE}', %s, false) FROM pg_settings WHERE name = '{_IDLE}' AND setting = '0'"


class Engines(NamedTuple):
    """Three ways to the same database; ``light`` commits without waiting for the disk."""

    durable: Engine
    light: Engine
    reader: Engine


def connect(url: str, synchronous: str) -> Engines:
    """Prepare the engines of ``url``; connects to nothing yet. Raises LedgerError for a URL that cannot be used."""
    with mapped():
        parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, synchronous)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise LedgerError(f"ledger url {parsed.render_as_string()}: must begin with sqlite:/// or postgresql://")


def _sqlite(url: URL, synchronous: str) -> Engines:
    if not url.database or url.database == ":memory:":
        raise LedgerError("ledger url: SQLite needs a file, sqlite:////var/lib/volunteer-cloud/ledger.db")
    begin = "BEGIN IMMEDIATE"
    light = "NORMAL" if synchronous in ("FULL", "EXTRA") else synchronous
    return Engines(
        _sqlite_engine(url, synchronous, begin), _sqlite_engine(url, light, begin), _sqlite_engine(url, light, "BEGIN")
    )


def _sqlite_engine(url: URL, synchronous: str, begin: str) -> Engine:
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000})

    def prepare(connection: SqliteConnection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        for pragma in (f"synchronous={synchronous}", "journal_mode=WAL", "foreign_keys=ON", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", start)
    return engine


def shorten_log(engine: Engine) -> None:
    """Copy SQLite's log into the database and cut it, when it has grown beyond ``MOST_LOG_BYTES``.

    Waits a moment for those who read; where they do not end, the next call tries again. Raises LedgerError.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return
    log = Path(f"{engine.url.database}-wal")
    if not log.exists() or log.stat().st_size <= MOST_LOG_BYTES:
        return
    with mapped(), closing(engine.raw_connection()) as connection:
        connection.cursor().execute(f"PRAGMA busy_timeout={LOG_PATIENCE_MS}")
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.cursor().execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _postgresql(url: URL) -> Engines:
    if not {"connect_timeout", "service"} & set(url.query) and "PGCONNECT_TIMEOUT" not in os.environ:
        url = url.update_query_dict({"connect_timeout": str(CONNECT_S)})
    settings: dict[str, Any] = {"isolation_level": "READ COMMITTED", "pool_use_lifo": True}
    engines = Engines(*(create_engine(url, **settings) for _ in range(3)))

    def bound(connection: PostgresqlConnection[Any], _record: object) -> None:
        # Whoever has set it, for the role or in the URL, has done so for a reason.
        connection.execute(_BOUND, [str(IDLE_MS)])
        connection.commit()

    def unhurried(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    for engine in engines:
        event.listen(engine, "connect", bound)
    event.listen(engines.light, "begin", unhurried)
    return engines


@contextmanager
def mapped() -> Iterator[None]:
    """Turn whatever SQLAlchemy and the drivers raise into our errors, the original chained."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"the tables refuse it: {error.orig}") from error
    except DBAPIError as error:
        raise _of_driver(error) from error
    except OverflowError as error:
        raise LedgerError(f"a number is beyond what the ledger can hold: {error}") from error
    except PoolTimeout as error:
        raise LedgerUnavailable("all connections to the ledger's database are in use") from error
    except SQLAlchemyError as error:
        raise LedgerError(f"the ledger's database: {error}") from error
    except (MemoryError, OSError) as error:
        raise LedgerUnavailable(f"this machine has no room for it: {error or type(error).__name__}") from error


def _of_driver(error: DBAPIError) -> LedgerError:
    said = str(error.orig).strip()
    match _judge(error):
        case Decision.CONTENDED:
            return Contended(f"the ledger's database is busy: {said}")
        case Decision.UNAVAILABLE:
            return LedgerUnavailable(f"the ledger's database cannot be used: {said}")
    return LedgerError(f"the ledger's database refuses it: {said}")


def _judge(error: DBAPIError) -> Decision:
    """An error without a code comes from the way to the database, not from it."""
    state = getattr(error.orig, "sqlstate", None)
    name = getattr(error.orig, "sqlite_errorname", None)
    if state:
        return of_sqlstate(state)
    if name:
        return of_sqlite(name)
    is_of_the_way = type(error.orig).__name__ in ("OperationalError", "InterfaceError") or error.connection_invalidated
    return Decision.UNAVAILABLE if is_of_the_way else Decision.REFUSED
