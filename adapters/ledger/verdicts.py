"""What a database's error means for the message that met it: try again at once, keep it and try later, or give it up.

One table, by SQLSTATE class (PostgreSQL) and result code (SQLite). What another try may cure, once a disk, a server or
an operator has come back, is kept; only what lies in the message or in our program is given up.
"""

from __future__ import annotations

from enum import Enum


class Decision(Enum):
    """What to do."""

    #: Others held the rows or the lock: do the same again, soon.
    CONTENDED = "contended"
    #: The database cannot do it now: keep the message, do the same again later.
    UNAVAILABLE = "unavailable"
    #: The database will never do it.
    REFUSED = "refused"


#: By the longest prefix of the SQLSTATE; https://www.postgresql.org/docs/current/errcodes-appendix.html.
SQLSTATES: dict[str, Decision] = {
    "40": Decision.CONTENDED,  # transaction rollback: serialization failure, deadlock
    "55P03": Decision.CONTENDED,  # lock not available
    "08": Decision.UNAVAILABLE,  # connection exception
    "25006": Decision.UNAVAILABLE,  # read-only transaction: a standby, or a server told to be so
    "25P03": Decision.UNAVAILABLE,  # idle in transaction for too long: we slept
    "28": Decision.UNAVAILABLE,  # login refused: a password is being changed
    "3D000": Decision.UNAVAILABLE,  # no such database: it is being restored
    "42501": Decision.UNAVAILABLE,  # insufficient privilege: an operator's to mend
    "42P01": Decision.UNAVAILABLE,  # no such table: a restore is under way
    "53": Decision.UNAVAILABLE,  # insufficient resources: disk full, out of memory, too many connections
    "55": Decision.UNAVAILABLE,  # object not in prerequisite state
    "57": Decision.UNAVAILABLE,  # operator intervention: query cancelled, shutdown, cannot connect now
    "58": Decision.UNAVAILABLE,  # system error: I/O
    "F0": Decision.UNAVAILABLE,  # configuration file error
    "XX": Decision.UNAVAILABLE,  # internal error: corrupted data or index
}
#: By SQLite's result code, its primary part; https://sqlite.org/rescode.html.
SQLITE_CODES: dict[str, Decision] = {
    "SQLITE_BUSY": Decision.CONTENDED,
    "SQLITE_LOCKED": Decision.CONTENDED,
    "SQLITE_PERM": Decision.UNAVAILABLE,
    "SQLITE_ABORT": Decision.UNAVAILABLE,
    "SQLITE_NOMEM": Decision.UNAVAILABLE,
    "SQLITE_READONLY": Decision.UNAVAILABLE,
    "SQLITE_INTERRUPT": Decision.UNAVAILABLE,
    "SQLITE_IOERR": Decision.UNAVAILABLE,
    "SQLITE_CORRUPT": Decision.UNAVAILABLE,
    "SQLITE_FULL": Decision.UNAVAILABLE,
    "SQLITE_CANTOPEN": Decision.UNAVAILABLE,
    "SQLITE_PROTOCOL": Decision.UNAVAILABLE,
    "SQLITE_SCHEMA": Decision.UNAVAILABLE,
    "SQLITE_NOLFS": Decision.UNAVAILABLE,
    "SQLITE_AUTH": Decision.UNAVAILABLE,
    "SQLITE_NOTADB": Decision.UNAVAILABLE,
}


def of_sqlstate(state: str) -> Decision:
    """Judge an error of PostgreSQL; what the table does not name is refused."""
    known = (SQLSTATES[state[:length]] for length in range(5, 1, -1) if state[:length] in SQLSTATES)
    return next(known, Decision.REFUSED)


def of_sqlite(name: str) -> Decision:
    """Judge an error of SQLite by its code's name, such as ``SQLITE_IOERR_WRITE``; what is not named is refused."""
    return SQLITE_CODES.get("_".join(name.split("_")[:2]), Decision.REFUSED)
