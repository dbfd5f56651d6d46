"""What the key manager remembers of VMs: whose they are, at which generation, and what is being handed out.

SQLite in one file of mode 0600. Every change is on disk when its method returns. Used by one thread at a time.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vms (
    vm TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    generation INTEGER NOT NULL,
    once_user TEXT NOT NULL DEFAULT '',
    once_password TEXT NOT NULL DEFAULT '',
    once_made_s REAL NOT NULL DEFAULT 0,
    password TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS vms_by_once ON vms (once_user);
CREATE INDEX IF NOT EXISTS vms_by_host ON vms (host);
"""


class VmRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One VM."""

    vm: str
    host: str
    generation: int
    #: The one-time login that its seed carries; empty once it was used to the end, or is too old.
    once_user: str = ""
    once_password: str = ""
    #: When that was made, seconds since 1970.
    once_made_s: float = 0.0
    #: The VM's own password while it may be asked for again; empty before the trade and after the confirmation.
    password: str = ""


_FIELDS = VmRecord.__struct_fields__
_PUT = f"INSERT OR REPLACE INTO vms ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))})"
_GET = f"SELECT {', '.join(_FIELDS)} FROM vms WHERE "


class Store:
    """See the module."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {_SCHEMA}")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()

    def put(self, record: VmRecord) -> None:
        """Remember a VM in place of what was known of it."""
        self._database.execute(_PUT, msgspec.structs.astuple(record))

    def forget(self, vm: str) -> None:
        """Forget a VM. Idempotent."""
        self._database.execute("DELETE FROM vms WHERE vm = ?", (vm,))

    def by_vm(self, vm: str) -> VmRecord | None:
        """Look a VM up by its name."""
        return next(iter(self._select("vm = ?", vm)), None)

    def by_once(self, once_user: str) -> VmRecord | None:
        """Look a VM up by its one-time login."""
        return next(iter(self._select("once_user = ? AND once_user != ''", once_user)), None)

    def of_host(self, host: str) -> list[VmRecord]:
        """Give the VMs of a host."""
        return self._select("host = ?", host)

    def with_once(self) -> list[VmRecord]:
        """Give the VMs whose one-time login is still there."""
        return self._select("once_user != ''")

    def _select(self, condition: str, *values: str) -> list[VmRecord]:
        rows: Iterable[tuple[object, ...]] = self._database.execute(_GET + condition, values)
        return [VmRecord(**dict(zip(_FIELDS, row, strict=True))) for row in rows]  # type: ignore[arg-type]
