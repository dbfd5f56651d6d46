"""Values of a job file's tags, each read as BOINC does it, refused where it makes no sense, with line and tag. Pure."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec import Struct

from host_agent.boinc.markup import Tag
from host_agent.boinc.slot_files import is_reserved
from host_agent.errors import JobFileError
from schemas.nearest import nearest

T = TypeVar("T")

#: Longest text of a tag, characters.
MOST_CHARACTERS = 16 << 10
_MOST_OF_A_NAME, _MOST_PARTS = 255, 64
#: Warnings that a file gets, and no more: whoever reads them mends the first.
MOST_WARNINGS = 100


class Warned(Struct, frozen=True):
    """What of a job file is not heeded, and why; a person may have meant something by it."""

    line: int
    tag: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: <{self.tag}>: {self.text}"


class Fields:
    """The tags in one tag, taken by name; ``warnings`` gets what nobody takes. ``known`` holds what each is read as."""

    def __init__(self, of: Tag, known: Mapping[str, Callable[[Tag], object]], warnings: list[Warned]) -> None:
        self._found: dict[str, list[object]] = {}
        for tag in of.tags:
            if tag.name in known:
                self._found.setdefault(tag.name, []).append(known[tag.name](tag))
            elif len(warnings) < MOST_WARNINGS:
                warnings.append(Warned(tag.line, tag.name[:80], _unknown(tag.name[:80], of.name, list(known))))

    def one(self, name: str, otherwise: T) -> T:
        """Give the last value of a tag, as BOINC does where one stands twice."""
        return self._found[name][-1] if name in self._found else otherwise  # type: ignore[return-value]

    def all(self, name: str) -> list[object]:
        """Give the values of a tag that may stand several times, in their order."""
        return self._found.get(name, [])

    def has(self, name: str) -> bool:
        """Whether the tag is there."""
        return name in self._found


def text(tag: Tag) -> str:
    """Read text; none is empty text."""
    if len(tag.text) > MOST_CHARACTERS:
        raise JobFileError(tag.line, tag.name, f"{len(tag.text)} characters; at most {MOST_CHARACTERS}")
    return tag.text


def flag(tag: Tag) -> bool:
    """Read ``<x/>``, ``<x>1</x>`` or ``<x>0</x>``."""
    if tag.is_empty or not tag.text:
        return True
    try:
        return int(tag.text) != 0
    except ValueError:
        raise JobFileError(tag.line, tag.name, f"{tag.text[:40]!r}: must be 0 or 1, or <{tag.name}/>") from None


def number(least: float, most: float) -> Callable[[Tag], float]:
    """Give what reads a number within bounds."""

    def read(tag: Tag) -> float:
        try:
            value = float(tag.text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise JobFileError(tag.line, tag.name, f"{tag.text[:40]!r}: must be a number from {least:g} to {most:g}")
        return value

    return read


def whole(least: int, most: int) -> Callable[[Tag], int]:
    """Give what reads a whole number within bounds."""

    def read(tag: Tag) -> int:
        value = number(least, most)(tag)
        if value != int(value):
            raise JobFileError(tag.line, tag.name, f"{tag.text[:40]!r}: must be a whole number")
        return int(value)

    return read


def name_in_slot(tag: Tag) -> str:
    """Read a logical name, which leads to a file in the slot and nowhere else."""
    name = text(tag)
    parts = name.replace("\\", "/").split("/")
    is_long = any(len(os.fsencode(part)) > _MOST_OF_A_NAME for part in parts) or len(parts) > _MOST_PARTS
    if (
        not name
        or name.startswith(("/", "\\"))
        or {"", ".", ".."} & set(parts)
        or ":" in parts[0]
        or "\n" in name
        or is_long
    ):
        raise JobFileError(tag.line, tag.name, f"{name[:80]!r}: must be the name of a file in the slot directory")
    return name


def name_or_none(tag: Tag) -> str:
    """Read a logical name; an empty tag is none."""
    return name_in_slot(tag) if tag.text else ""


def name_of_output(tag: Tag) -> str:
    """Read the logical name of what is written; an empty tag is none."""
    name = name_or_none(tag)
    if name and is_reserved(name):
        raise JobFileError(tag.line, tag.name, f"{name[:80]!r}: is a name of BOINC's or of the agent's; take another")
    return name


def _unknown(name: str, inside: str, known: list[str]) -> str:
    like = nearest(name, known)
    return f"is unknown in <{inside}> and is passed over" + (f"; did you mean <{like}>?" if like else "")
