"""What a database's error means for the message that met it: try again at once, keep it and try later, or give it up.

One table, by SQLSTATE class (PostgreSQL) and result code (SQLite). What another try may cure, once a disk, a server or
an operator has come back, is kept; only what lies in the message or in our program is given up.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do."""

    #: Others held the rows or the lock: do the same again, soon.
    CONTENDED = "contended"
    #: The database cannot do it now: keep the message, do the same again later.
    UNAVAILABLE = "unavailable"
    #: The database will never do it.
    REFUSED = "refused"


#: By the longest prefix of the SQLSTATE; https://www.postgresql.org/docs/current/errcodes-appendix.html.
SQLSTATES: dict[str, Verdict] = {
    "40": Verdict.CONTENDED,  # transaction rollback: serialization failure, deadlock
    "55P03": Verdict.CONTENDED,  # lock not available
    "08": Verdict.UNAVAILABLE,  # connection exception
    "25006": Verdict.UNAVAILABLE,  # read-only transaction: a standby, or a server told to be so
    "25P03": Verdict.UNAVAILABLE,  # idle in transaction for too long: we slept
    "28": Verdict.UNAVAILABLE,  # login refused: a password is being changed
    "3D000": Verdict.UNAVAILABLE,  # no such database: it is being restored
    "42501": Verdict.UNAVAILABLE,  # insufficient privilege: an operator's to mend
    "42P01": Verdict.UNAVAILABLE,  # no such table: a restore is under way
    "53": Verdict.UNAVAILABLE,  # insufficient resources: disk full, out of memory, too many connections
    "55": Verdict.UNAVAILABLE,  # object not in prerequisite state
    "57": Verdict.UNAVAILABLE,  # operator intervention: query cancelled, shutdown, cannot connect now
    "58": Verdict.UNAVAILABLE,  # system error: I/O
    "F0": Verdict.UNAVAILABLE,  # configuration file error
    "XX": Verdict.UNAVAILABLE,  # internal error: corrupted data or index
}
#: By SQLite's result code, its primary part; https://sqlite.org/rescode.html.
SQLITE_CODES: dict[str, Verdict] = {
    "SQLITE_BUSY": Verdict.CONTENDED,
    "SQLITE_LOCKED": Verdict.CONTENDED,
    "SQLITE_PERM": Verdict.UNAVAILABLE,
    "SQLITE_ABORT": Verdict.UNAVAILABLE,
    "SQLITE_NOMEM": Verdict.UNAVAILABLE,
    "SQLITE_READONLY": Verdict.UNAVAILABLE,
    "SQLITE_INTERRUPT": Verdict.UNAVAILABLE,
    "SQLITE_IOERR": Verdict.UNAVAILABLE,
    "SQLITE_CORRUPT": Verdict.UNAVAILABLE,
    "SQLITE_FULL": Verdict.UNAVAILABLE,
    "SQLITE_CANTOPEN": Verdict.UNAVAILABLE,
    "SQLITE_PROTOCOL": Verdict.UNAVAILABLE,
    "SQLITE_SCHEMA": Verdict.UNAVAILABLE,
    "SQLITE_NOLFS": Verdict.UNAVAILABLE,
    "SQLITE_AUTH": Verdict.UNAVAILABLE,
    "SQLITE_NOTADB": Verdict.UNAVAILABLE,
}


def of_sqlstate(state: str) -> Verdict:
    """Judge an error of PostgreSQL; what the table does not name is refused."""
    known = (SQLSTATES[state[:length]] for length in range(5, 1, -1) if state[:length] in SQLSTATES)
    return next(known, Verdict.REFUSED)


def of_sqlite(name: str) -> Verdict:
    """Judge an error of SQLite by its code's name, such as ``SQLITE_IOERR_WRITE``; what is not named is refused."""
    return SQLITE_CODES.get("_".join(name.split("_")[:2]), Verdict.REFUSED)
