"""What a process has said in its log since it was first started by this supervisor, in the few lines that say most."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from volcloud.centre.layout import TAIL_LINES

#: The beginning of a line of ours: when, and how loud.
_EVENT = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z (\w+) ")
_LOUD = ("WARNING", "ERROR", "CRITICAL")
#: How much of a log's end is read, bytes, and how much of a line is shown, characters.
_READ_BYTES, _LINE = 1 << 18, 600


class LogMark(msgspec.Struct, frozen=True):
    """How long a log was at a start."""

    path: Path
    size: int

    @classmethod
    def of(cls, path: Path) -> LogMark:
        """Take note, before the start."""
        try:
            return cls(path, path.stat().st_size)
        except OSError:
            return cls(path, 0)

    def words(self, lines: int = TAIL_LINES) -> str:
        """Give what was said since: warnings and errors, and what others than the log have said, each once; the last
        lines where there are none. Empty where nothing was said."""
        said = self._said()
        loud = [text for level, text in _events(said) if level in _LOUD]
        chosen = list(dict.fromkeys(loud)) or said
        return "\n".join(f"  {line[:_LINE]}" for line in chosen[-lines:])

    def _said(self) -> list[str]:
        """Give the lines since; of a log that was put aside meanwhile, those of the new one."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                since = self.size if size >= self.size else 0
                file.seek(max(since, size - _READ_BYTES))
                return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return []


def _events(lines: list[str]) -> list[tuple[str, str]]:
    """Give each event with its level, without its time. What stands below one is a traceback, whose end says most; what
    begins at a line's beginning and is no event of ours counts as an error."""
    found: list[tuple[str, str]] = []
    for line in lines:
        event = _EVENT.match(line)
        if event:
            found.append((event[1], line[event.start(1) :]))
        elif line[0].isspace() and found:
            level, text = found[-1]
            found[-1] = (level, f"{text.partition(' … ')[0]} … {line.strip()}")
        else:
            found.append(("ERROR", line))
    return found
