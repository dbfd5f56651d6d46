"""Which errors of a database keep a message and which give it up."""

from __future__ import annotations

import re
import sqlite3

import psycopg.errors
import pytest

from adapters.ledger.verdicts import SQLITE_CODES, SQLSTATES, Decision, of_sqlite, of_sqlstate


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("DiskFull", Decision.UNAVAILABLE),
        ("OutOfMemory", Decision.UNAVAILABLE),
        ("TooManyConnections", Decision.UNAVAILABLE),
        ("QueryCanceled", Decision.UNAVAILABLE),
        ("AdminShutdown", Decision.UNAVAILABLE),
        ("CannotConnectNow", Decision.UNAVAILABLE),
        ("ReadOnlySqlTransaction", Decision.UNAVAILABLE),
        ("IoError", Decision.UNAVAILABLE),
        ("InsufficientPrivilege", Decision.UNAVAILABLE),
        ("InternalError_", Decision.UNAVAILABLE),
        ("ObjectInUse", Decision.UNAVAILABLE),
        ("SerializationFailure", Decision.CONTENDED),
        ("DeadlockDetected", Decision.CONTENDED),
        ("LockNotAvailable", Decision.CONTENDED),
        ("NumericValueOutOfRange", Decision.REFUSED),
        ("CharacterNotInRepertoire", Decision.REFUSED),
        ("UniqueViolation", Decision.REFUSED),
        ("ProgramLimitExceeded", Decision.REFUSED),
        ("SyntaxError", Decision.REFUSED),
    ],
)
def test_what_another_try_may_cure_is_kept(error: str, verdict: Decision) -> None:
    state = getattr(psycopg.errors, error).sqlstate

    assert of_sqlstate(state) is verdict


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("SQLITE_FULL", Decision.UNAVAILABLE),
        ("SQLITE_IOERR", Decision.UNAVAILABLE),
        ("SQLITE_IOERR_WRITE", Decision.UNAVAILABLE),
        ("SQLITE_READONLY_DBMOVED", Decision.UNAVAILABLE),
        ("SQLITE_CANTOPEN_ISDIR", Decision.UNAVAILABLE),
        ("SQLITE_NOMEM", Decision.UNAVAILABLE),
        ("SQLITE_BUSY_SNAPSHOT", Decision.CONTENDED),
        ("SQLITE_LOCKED_SHAREDCACHE", Decision.CONTENDED),
        ("SQLITE_TOOBIG", Decision.REFUSED),
        ("SQLITE_MISMATCH", Decision.REFUSED),
        ("SQLITE_CONSTRAINT_UNIQUE", Decision.REFUSED),
    ],
)
def test_the_same_for_sqlite(name: str, verdict: Decision) -> None:
    assert hasattr(sqlite3, name)
    assert of_sqlite(name) is verdict


def test_the_tables_name_what_there_is() -> None:
    states = [getattr(error, "sqlstate", None) for error in vars(psycopg.errors).values()]
    known = [state for state in states if isinstance(state, str)]

    assert all(hasattr(sqlite3, name) for name in SQLITE_CODES)
    assert all(re.fullmatch("[0-9A-Z]{2}|[0-9A-Z]{5}", state) for state in SQLSTATES)
    assert not [state for state in SQLSTATES if not any(one.startswith(state) for one in known)]
