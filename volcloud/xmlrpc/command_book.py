"""The commands that were started through the door, in a file of the data directory: what was asked for, of which VM.

What they printed is kept in their VMs; the file says which VM to ask about an id, and what was asked for. Blocks: call
it in a thread; any number may.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from volcloud.errors import CommandFailed

#: Commands that are remembered; the oldest go first.
MOST_COMMANDS = 10_000
#: How long another door of the same directory may hold the file, seconds.
_PATIENCE_S = 5.0
_TABLE = """
CREATE TABLE IF NOT EXISTS commands (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, vm TEXT NOT NULL, details TEXT NOT NULL, ended INTEGER NOT NULL
) STRICT
"""


def book_path(directory: Path) -> Path:
    """Name the file in a data directory."""
    return directory / "xmlrpc" / "commands.sqlite"


class BookedCommand(NamedTuple):
    """A command that was started."""

    id: str
    #: The VM's id.
    vm: str
    #: What was asked for, by the original's names.
    details: dict[str, Any]


class CommandBook:
    """See the module. Every method raises CommandFailed where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._told():
            self._file = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
            path.chmod(0o600)
            self._file.execute(_TABLE)

    def close(self) -> None:
        """Let the file go. Idempotent."""
        with self._lock:
            self._file.close()

    def add(self, command: BookedCommand) -> None:
        """Note a command; on return it would survive a power cut."""
        with self._change() as file:
            values = (command.id, command.vm, json.dumps(command.details))
            file.execute("INSERT OR REPLACE INTO commands (id, vm, details, ended) VALUES (?, ?, ?, 0)", values)
            oldest = "number <= (SELECT max(number) FROM commands) - ?"
            file.execute(f"DELETE FROM commands WHERE {oldest}", (MOST_COMMANDS,))

    def find(self, command: str) -> BookedCommand | None:
        """Give a command by its id."""
        with self._change() as file:
            row = file.execute("SELECT id, vm, details FROM commands WHERE id = ?", (command,)).fetchone()
        return BookedCommand(row[0], row[1], json.loads(row[2])) if row else None

    def with_running(self) -> dict[str, list[str]]:
        """Give the ids of all commands of each VM that has one not known to have ended, by VM."""
        found: dict[str, list[str]] = {}
        asked = "SELECT id, vm FROM commands WHERE vm IN (SELECT vm FROM commands WHERE NOT ended) ORDER BY number"
        with self._change() as file:
            for command, vm in file.execute(asked):
                found.setdefault(vm, []).append(command)
        return found

    def ended(self) -> list[str]:
        """Give the ids of those that have ended, the oldest first."""
        with self._change() as file:
            return [row[0] for row in file.execute("SELECT id FROM commands WHERE ended ORDER BY number")]

    def note_ends(self, commands: list[str]) -> None:
        """Note that commands have ended."""
        with self._change() as file:
            file.executemany("UPDATE commands SET ended = 1 WHERE id = ?", [(command,) for command in commands])

    def forget(self, commands: list[str]) -> None:
        """Forget commands of which their VMs have nothing any more."""
        with self._change() as file:
            file.executemany("DELETE FROM commands WHERE id = ?", [(command,) for command in commands])

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._told(), self._lock, self._file:
            yield self._file

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            step = "make room on its disk; where the file is damaged, remove it: it is only a list of old commands"
            raise CommandFailed(f"{self._path}: {error}", step) from error
