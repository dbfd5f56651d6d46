"""Names of files in a job's directory, and other words, as a grid's users write them. Pure."""

from __future__ import annotations

import re

from schemas.codec import clip
from schemas.description import FILE_NAME_PATTERN, MAX_NAME_BYTES
from schemas.plain_text import plain

#: Of a stranger's words, characters that an error quotes.
MOST_QUOTED = 60
_NAME = re.compile(FILE_NAME_PATTERN)


def quoted(text: str) -> str:
    """Give a stranger's words as an error quotes them."""
    return f"'{plain(clip(text, MOST_QUOTED))}'"


def flaw_of_name(name: str) -> str:
    """Say why a name is none of a file below the job's directory; empty where it is one."""
    steps = name.split("/")
    if len(name) > 200 or not _NAME.match(name) or any(len(step.encode()) > MAX_NAME_BYTES for step in steps):
        return "must be the name of a file below the job's directory, 200 characters at most"
    return "must stay below the job's directory" if "." in steps or ".." in steps else ""


def is_number(name: str) -> bool:
    """Say whether a job's name at its grid is a number, as grids give them: of a source that bore this one's name
    before it may be any."""
    return name.isascii() and name.isdigit() and len(name) < 19 and int(name) > 0
