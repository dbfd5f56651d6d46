"""What the key manager remembers of VMs: whose they are, at which generation, what is being handed out, who vouches.

SQLite in one file of mode 0600. Every change is on disk when its method returns. Ages are time that the key manager has
served, so that neither its absence nor a step of the clock ends anything. Used by any thread, one call at a time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vms (
    vm TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    generation INTEGER NOT NULL,
    once_user TEXT NOT NULL DEFAULT '',
    once_password TEXT NOT NULL DEFAULT '',
    password TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS vms_by_once ON vms (once_user);
CREATE INDEX IF NOT EXISTS vms_by_host ON vms (host);
"""
#: Columns that came later, and how they are declared.
_LATER = {
    "once_age_s": "REAL NOT NULL DEFAULT 0",
    "silent_s": "REAL NOT NULL DEFAULT 0",
    "disowned": "INTEGER NOT NULL DEFAULT 0",
}


class EnrolledVm(msgspec.Struct, frozen=True, kw_only=True):
    """One VM."""

    vm: str
    #: Empty for one that was found on the broker and that no host has vouched for yet.
    host: str
    generation: int
    #: The one-time login that its seed carries; empty once it was used to the end, or is too old.
    once_user: str = ""
    once_password: str = ""
    #: The VM's own password while it may be asked for again; empty before the trade and after the confirmation.
    password: str = ""
    #: How long that login could have been used, seconds.
    once_age_s: float = 0.0
    #: How long its host could have vouched for it and has not, seconds.
    silent_s: float = 0.0
    #: Its host's last word does not have it.
    disowned: bool = False


_FIELDS = EnrolledVm.__struct_fields__
_PUT = f"INSERT OR REPLACE INTO vms ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))})"
_GET = f"SELECT {', '.join(_FIELDS)} FROM vms"


class EnrolmentStore:
    """See the module."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_SCHEMA}")
        present = {row[1] for row in self._database.execute("PRAGMA table_info(vms)")}
        for column in _LATER.keys() - present:
            self._database.execute(f"ALTER TABLE vms ADD COLUMN {column} {_LATER[column]}")
        #: Hosts by VM and by one-time login: asked for each message, which must not wait for a disk.
        self._hosts = {name: one.host for one in self.everything() for name in _names(one)}

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._database.close()

    def put(self, record: EnrolledVm) -> None:
        """Remember a VM in place of what was known of it."""
        before = self.by_vm(record.vm)
        self._change(_PUT, msgspec.structs.astuple(record))
        self._forget_names(before)
        self._hosts |= dict.fromkeys(_names(record), record.host)

    def forget(self, vm: str) -> None:
        """Forget a VM. Idempotent."""
        before = self.by_vm(vm)
        self._change("DELETE FROM vms WHERE vm = ?", (vm,))
        self._forget_names(before)

    def host_of(self, principal: str) -> str:
        """Say to which host a VM or a one-time login belongs; empty for anybody else. Never waits."""
        return self._hosts.get(principal, "")

    def grow_older(self, by_s: float) -> None:
        """Note that so much time was served."""
        self._change(
            "UPDATE vms SET silent_s = silent_s + ?, once_age_s = once_age_s + iif(once_user = '', 0, ?)",
            (by_s, by_s),
        )

    def by_vm(self, vm: str) -> EnrolledVm | None:
        """Look a VM up by its name."""
        return next(iter(self._select("vm = ?", vm)), None)

    def by_once(self, once_user: str) -> EnrolledVm | None:
        """Look a VM up by its one-time login."""
        return next(iter(self._select("once_user = ? AND once_user != ''", once_user)), None)

    def of_host(self, host: str) -> list[EnrolledVm]:
        """Give the VMs of a host."""
        return self._select("host = ?", host)

    def with_once(self) -> list[EnrolledVm]:
        """Give the VMs whose one-time login is still there."""
        return self._select("once_user != ''")

    def everything(self) -> list[EnrolledVm]:
        """Give every VM."""
        return self._select("TRUE")

    def _forget_names(self, record: EnrolledVm | None) -> None:
        for name in _names(record) if record is not None else ():
            self._hosts.pop(name, None)

    def _change(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock:
            self._database.execute(statement, values)

    def _select(self, condition: str, *values: str) -> list[EnrolledVm]:
        with self._lock:
            return _records(self._database, condition, values)


def _names(record: EnrolledVm) -> list[str]:
    """Give the logins of a VM: its own and, while there is one, the one-time login."""
    return [record.vm, record.once_user] if record.once_user else [record.vm]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[list[EnrolledVm]]:
    """Give every VM that a key manager's database remembers, beside a key manager that runs. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        yield _records(database, "TRUE", ())


def _records(database: sqlite3.Connection, condition: str, values: tuple[str, ...]) -> list[EnrolledVm]:
    rows: Iterable[tuple[object, ...]] = database.execute(f"{_GET} WHERE {condition} ORDER BY vm", values)
    return [msgspec.convert(dict(zip(_FIELDS, row, strict=True)), EnrolledVm, strict=False) for row in rows]
