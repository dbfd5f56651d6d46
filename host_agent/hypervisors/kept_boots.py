"""Reading what is kept of what a guest has printed, by its place in all that it printed in one boot. Files only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from host_agent.hypervisors.kept_log import HEAD_BYTES, LogNote, read_note, turn
from schemas.looks import MOST_OF_A_LOG, LogPiece

#: Stands for the boot of a log that has no note.
_UNNAMED = "unnamed"


class KeptPart(NamedTuple):
    """A part of what was printed: where it begins, and where it lies."""

    at: int
    path: Path
    skip: int
    size: int

    @property
    def end_at(self) -> int:
        """Where it ends."""
        return self.at + self.size

    def read(self, at: int, most: int) -> bytes:
        """Read from a place in it on. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.skip + at - self.at)
            return file.read(min(most, self.end_at - at))


class KeptBoot(NamedTuple):
    """What is kept of one boot, in order."""

    boot: str
    parts: list[KeptPart]

    @property
    def end_at(self) -> int:
        """How much was printed in it so far."""
        return max((part.end_at for part in self.parts), default=0)

    def after(self, at: int, most: int) -> list[LogPiece]:
        """Give what follows a place, up to so many bytes. Raises OSError."""
        pieces: list[LogPiece] = []
        for part in self.parts:
            begin = max(at, part.at)
            data = part.read(begin, most) if begin < part.end_at and most > 0 else b""
            if data:
                pieces.append(LogPiece(at=begin, data=data))
                most -= len(data)
        return _joined(pieces)

    def last(self, lines: int, most: int) -> list[LogPiece]:
        """Give the last lines, up to so many bytes. Raises OSError."""
        pieces: list[LogPiece] = []
        for part in reversed(self.parts):
            begin = max(part.at, part.end_at - most)
            data = part.read(begin, most) if most > 0 else b""
            if data:
                pieces.insert(0, LogPiece(at=begin, data=data))
                most -= len(data)
        return _last_lines(_joined(pieces), lines)


class LogAnswer(NamedTuple):
    """What ``ask`` gives; see ``schemas.looks.VmLogReply``."""

    boot: str
    pieces: list[LogPiece]
    next_at: int
    more: bool
    newer: str


def ask(path: Path, boot: str, at: int, lines: int) -> LogAnswer:
    """Give the last lines in the log ``path``, or, with a boot, what follows a place in it; at most ``MOST_OF_A_LOG``
    bytes. Of a boot that is kept no more, the oldest that is. Raises OSError."""
    with turn(path):
        boots = [found for one in (Path(f"{path}.1"), path) if (found := _boot(one)) is not None]
        if not boots:
            return LogAnswer("", [], 0, False, "")
        if not boot:
            return _told(boots, len(boots) - 1, boots[-1].last(lines, MOST_OF_A_LOG), boots[-1].end_at)
        number = max((n for n, one in enumerate(boots) if one.boot == boot), default=-1)
        begin = at if number >= 0 else 0
        pieces = boots[max(0, number)].after(begin, MOST_OF_A_LOG)
        return _told(boots, max(0, number), pieces, begin)


def _told(boots: list[KeptBoot], number: int, pieces: list[LogPiece], at: int) -> LogAnswer:
    chosen, newer = boots[number], boots[number + 1 :]
    # A host that has crashed may have lost what had been told already.
    next_at = pieces[-1].at + len(pieces[-1].data) if pieces else min(at, chosen.end_at)
    return LogAnswer(chosen.boot, pieces, next_at, next_at < chosen.end_at, newer[0].boot if newer else "")


def _boot(path: Path) -> KeptBoot | None:
    note = read_note(path)
    parts = [part for part in _parts(path, note) if part.size > 0]
    # One that has begun and printed nothing yet is a boot too.
    return KeptBoot(note.boot or _UNNAMED, parts) if parts or note.boot else None


def _parts(path: Path, note: LogNote) -> Iterable[KeptPart]:
    size = _size(path)
    if note.skip:
        yield KeptPart(0, path, 0, min(size, HEAD_BYTES))
        yield KeptPart(note.tail_at, path, note.skip, size - note.skip)
    else:
        yield KeptPart(0, path, 0, size)
    for suffix, at in ((".tail.1", note.before_at), (".tail", note.tail_at)):
        part = Path(f"{path}{suffix}")
        yield KeptPart(at, part, 0, _size(part))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _joined(pieces: list[LogPiece]) -> list[LogPiece]:
    """Make one of pieces that follow each other without a gap."""
    joined: list[LogPiece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if before is not None and before.at + len(before.data) == piece.at:
            joined[-1] = LogPiece(at=before.at, data=before.data + piece.data)
        else:
            joined.append(piece)
    return joined


def _last_lines(pieces: list[LogPiece], lines: int) -> list[LogPiece]:
    kept: list[LogPiece] = []
    for piece in reversed(pieces):
        if lines <= 0:
            break
        # A line break at the very end ends a line and begins none.
        is_end = not kept and piece.data.endswith(b"\n")
        rows = piece.data.removesuffix(b"\n").split(b"\n") if is_end else piece.data.split(b"\n")
        data = b"\n".join(rows[-lines:]) + (b"\n" if is_end else b"")
        kept.insert(0, LogPiece(at=piece.at + len(piece.data) - len(data), data=data))
        lines -= len(rows) - 1 if len(rows) > 1 else 1
    return kept
