"""Which errors of a database keep a message and which give it up."""

from __future__ import annotations

import re
import sqlite3

import psycopg.errors
import pytest

from adapters.ledger.verdicts import SQLITE_CODES, SQLSTATES, Verdict, of_sqlite, of_sqlstate


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("DiskFull", Verdict.UNAVAILABLE),
        ("OutOfMemory", Verdict.UNAVAILABLE),
        ("TooManyConnections", Verdict.UNAVAILABLE),
        ("QueryCanceled", Verdict.UNAVAILABLE),
        ("AdminShutdown", Verdict.UNAVAILABLE),
        ("CannotConnectNow", Verdict.UNAVAILABLE),
        ("ReadOnlySqlTransaction", Verdict.UNAVAILABLE),
        ("IoError", Verdict.UNAVAILABLE),
        ("InsufficientPrivilege", Verdict.UNAVAILABLE),
        ("InternalError_", Verdict.UNAVAILABLE),
        ("ObjectInUse", Verdict.UNAVAILABLE),
        ("SerializationFailure", Verdict.CONTENDED),
        ("DeadlockDetected", Verdict.CONTENDED),
        ("LockNotAvailable", Verdict.CONTENDED),
        ("NumericValueOutOfRange", Verdict.REFUSED),
        ("CharacterNotInRepertoire", Verdict.REFUSED),
        ("UniqueViolation", Verdict.REFUSED),
        ("ProgramLimitExceeded", Verdict.REFUSED),
        ("SyntaxError", Verdict.REFUSED),
    ],
)
def test_what_another_try_may_cure_is_kept(error: str, verdict: Verdict) -> None:
    state = getattr(psycopg.errors, error).sqlstate

    assert of_sqlstate(state) is verdict


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("SQLITE_FULL", Verdict.UNAVAILABLE),
        ("SQLITE_IOERR", Verdict.UNAVAILABLE),
        ("SQLITE_IOERR_WRITE", Verdict.UNAVAILABLE),
        ("SQLITE_READONLY_DBMOVED", Verdict.UNAVAILABLE),
        ("SQLITE_CANTOPEN_ISDIR", Verdict.UNAVAILABLE),
        ("SQLITE_NOMEM", Verdict.UNAVAILABLE),
        ("SQLITE_BUSY_SNAPSHOT", Verdict.CONTENDED),
        ("SQLITE_LOCKED_SHAREDCACHE", Verdict.CONTENDED),
        ("SQLITE_TOOBIG", Verdict.REFUSED),
        ("SQLITE_MISMATCH", Verdict.REFUSED),
        ("SQLITE_CONSTRAINT_UNIQUE", Verdict.REFUSED),
    ],
)
def test_the_same_for_sqlite(name: str, verdict: Verdict) -> None:
    assert hasattr(sqlite3, name)
    assert of_sqlite(name) is verdict


def test_the_tables_name_what_there_is() -> None:
    states = [getattr(error, "sqlstate", None) for error in vars(psycopg.errors).values()]
    known = [state for state in states if isinstance(state, str)]

    assert all(hasattr(sqlite3, name) for name in SQLITE_CODES)
    assert all(re.fullmatch("[0-9A-Z]{2}|[0-9A-Z]{5}", state) for state in SQLSTATES)
    assert not [state for state in SQLSTATES if not any(one.startswith(state) for one in known)]
