"""What a guest or a hypervisor prints, kept within bounds: how it began, and how it goes on.

A stranger decides how much he prints, so whatever is beyond the bounds is thrown away from the middle; a note beside
the log says where in all that was printed its parts belong. Files only.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

#: What is kept of the beginning: a boot prints some 30 KiB.
HEAD_BYTES = 128 * 1024
#: What is kept of the end, at least; at most it is twice as much.
TAIL_BYTES = 256 * 1024

#: By path. Held for as long as a part is written or read.
_turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()


class LogNote(msgspec.Struct, frozen=True, kw_only=True):
    """Of which boot a log is, and how much was printed before its parts. A log without one is of a time before."""

    boot: str = ""
    #: How much was printed before the first byte of ``NAME.tail``, and of ``NAME.tail.1``; in a log that is trimmed,
    #: before the byte at ``skip`` in the file itself.
    tail_at: int = HEAD_BYTES
    before_at: int = HEAD_BYTES
    skip: int = 0


class KeptLog:
    """A log that we write: ``NAME`` is how a boot began, ``NAME.tail`` what came last, ``NAME.tail.1`` what came before
    that. ``NAME.1`` and ``NAME.1.tail`` are of the boot before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head, self._tail, self._before = path, Path(f"{path}.tail"), Path(f"{path}.tail.1")
        self._last, self._last_tail = Path(f"{path}.1"), Path(f"{path}.1.tail")

    def begin(self) -> None:
        """Begin a boot."""
        with turn(self._path):
            for old, new in ((self._head, self._last), (self._tail, self._last_tail)):
                _put_back(old, new)
            self._before.unlink(missing_ok=True)
            _begin_note(self._path)

    def write(self, data: bytes) -> None:
        """Add what was printed. Raises OSError; what did not fit is lost then, and nothing else."""
        with turn(self._path):
            room = max(0, HEAD_BYTES - _size(self._head))
            _append(self._head, data[:room])
            rest = data[room:][-TAIL_BYTES:]
            if rest:
                self._make_room(len(rest), dropped=len(data) - len(data[:room]) - len(rest))
                _append(self._tail, rest)

    def _make_room(self, wanted: int, *, dropped: int) -> None:
        """Put the tail behind where it is full, and note where the next begins."""
        size = _size(self._tail)
        is_full = size + wanted > TAIL_BYTES and self._tail.exists()
        if not is_full and not dropped:
            return
        note = read_note(self._path)
        if is_full:
            self._tail.replace(self._before)
            note = msgspec.structs.replace(note, before_at=note.tail_at, tail_at=note.tail_at + size)
        _write_note(self._path, msgspec.structs.replace(note, tail_at=note.tail_at + dropped))


def begin(path: Path) -> None:
    """Begin a boot in a log that somebody else appends to; ``NAME.1`` is of the boot before."""
    with turn(path):
        _put_back(path, Path(f"{path}.1"))
        _begin_note(path)


def trim(path: Path) -> None:
    """Shorten a log that somebody else appends to, once it is beyond its bounds, to its beginning and its end.

    What is written in that very moment may be lost. One that is not there, or a disk that is full, is no error.
    """
    if _size(path) <= HEAD_BYTES + 4 * TAIL_BYTES:
        return
    with contextlib.suppress(OSError), turn(path), path.open("r+b") as file:
        note, size = read_note(path), _size(path)
        head = file.read(HEAD_BYTES)
        # Where the file's end belongs in all that was printed.
        end_at = size if not note.skip else note.tail_at + size - note.skip
        file.seek(-TAIL_BYTES, 2)
        tail = file.read()
        left_out = end_at - HEAD_BYTES - len(tail)
        mark = f"\n[{left_out} bytes are left out here]\n".encode()
        file.seek(0)
        file.write(head + mark + tail)
        file.truncate()
        at = end_at - len(tail)
        _write_note(path, msgspec.structs.replace(note, tail_at=at, skip=HEAD_BYTES + len(mark)))


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Let nobody else of this process change or read the parts of a log meanwhile; no other process does."""
    with _turns.setdefault(str(path), threading.Lock()):
        yield


def read_note(path: Path) -> LogNote:
    """Give the note beside a log. One that is not there or damaged is as of a log that was never cut."""
    try:
        return msgspec.json.decode(_note_of(path).read_bytes(), type=LogNote)
    except (OSError, msgspec.MsgspecError):
        return LogNote(tail_at=HEAD_BYTES + _size(Path(f"{path}.tail.1")))


def _note_of(path: Path) -> Path:
    return Path(f"{path}.json")


def _write_note(path: Path, note: LogNote) -> None:
    # Not synced: after a crash it tells of a place that is a little wrong, in a log that has lost as much.
    scratch = Path(f"{path}.json.new")
    scratch.write_bytes(msgspec.json.encode(note))
    scratch.replace(_note_of(path))


def _begin_note(path: Path) -> None:
    _put_back(_note_of(path), _note_of(Path(f"{path}.1")))
    _write_note(path, LogNote(boot=secrets.token_hex(8)))


def _put_back(old: Path, new: Path) -> None:
    """Make what is there what was there before."""
    new.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        old.replace(new)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _append(path: Path, data: bytes) -> None:
    if data:
        with path.open("ab") as file:
            path.chmod(0o600)
            file.write(data)
