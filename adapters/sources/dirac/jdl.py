"""DIRAC's job description language, as people write it: text in, values by key out. Pure.

There may be brackets around it or none, lists with quotes or without, ``;`` where a line ends or not, comments, numbers
in quotes, and one key twice, of which the last counts, as at DIRAC. Keys are the same in capitals and small letters.
What is read is bounded, in one pass; whatever cannot be read raises JdlError with its line and key, and nothing else.
"""

from __future__ import annotations

import re
from typing import NoReturn

from msgspec import Struct

from adapters.errors import JdlError
from adapters.sources.names import MOST_QUOTED, quoted

#: A description that is longer is none, bytes; the longest that were seen have some 100 KiB.
MOST_BYTES = 4 << 20
#: Keys of one description, members of one list, and values within values.
MOST_KEYS, MOST_MEMBERS, MOST_DEEP = 1000, 20_000, 8

_BETWEEN = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+|/\*(?s:.*?)\*/|;)*+")
_KEY = re.compile(r"([A-Za-z_][\w.-]*+)\s*+=(?!=)")
_STRING = re.compile(r'"([^"\\]*+(?:\\(?s:.)[^"\\]*+)*+)"')
_ESCAPED = re.compile(r'\\(["\\])')
#: Where a value without quotes ends, or what in it is passed over: a string, an index.
_STOP = re.compile(
    r'"[^"\n]*+"|[\[\];]'
    r"|(?<!\s)[^\S\n]*+\n\s*+(?=[A-Za-z_][\w.-]*+\s*+=(?!=)|\]|\Z)"
    r"|(?<=\S)\s++(?=[A-Za-z_]\w*+\s++=\s)"
)
_MEMBER = re.compile(r"[^,{}\"\n]*+")
_REMARK = re.compile(r"(?<!\S)(?://|#)[^\n]*+")
_AFTER = re.compile(r"[;\]#]|//|/\*|\Z")
_BLANKS = re.compile(r"[\s,]*+")


class JdlValue(Struct, frozen=True):
    """What a key is set to: a text, or the members of a list."""

    line: int
    members: tuple[str, ...]
    is_list: bool = False


class Jdl(Struct, frozen=True):
    """A description: values by key in small letters, and those of the records in it, such as ``JobRequirements``."""

    values: dict[str, JdlValue]
    records: dict[str, Jdl] = {}

    def find(self, key: str) -> JdlValue | None:
        """Give a key's value; None where it is not set, or to nothing at all."""
        value = self.values.get(key.lower())
        return value if value is not None and any(value.members) else None

    def line(self, key: str) -> int:
        """Give the line in which a key is set; 0 where it is not."""
        value = self.values.get(key.lower())
        return 0 if value is None else value.line

    def text(self, key: str, usual: str = "") -> str:
        """Give a key's text; members of a list with blanks between them."""
        value = self.find(key)
        return usual if value is None else " ".join(value.members).strip()

    def members(self, key: str) -> list[str]:
        """Give the members of a list; a single text is one, or more where there are commas in it."""
        value = self.find(key)
        if value is None:
            return []
        found = value.members if value.is_list else tuple(value.members[0].split(","))
        return [member.strip() for member in found if member.strip()]

    def number(self, key: str) -> float | None:
        """Give a key's number; None where it is not set. Raises JdlError for what is none."""
        text = self.text(key)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            raise JdlError(self.line(key), key, f"{quoted(text)}: must be a number") from None
        if number != number or number in (float("inf"), float("-inf")):
            raise JdlError(self.line(key), key, f"{quoted(text)}: must be a number")
        return number


def read_jdl(text: str) -> Jdl:
    """Read a description. Raises JdlError."""
    body = text.encode("utf-8", "replace")
    if len(body) > MOST_BYTES:
        raise JdlError(1, "", f"{len(body)} bytes; a description has at most {MOST_BYTES}")
    return _Reader(body.decode().removeprefix("\ufeff")).whole()


class _Reader:
    """A text, and how far it has been read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._line = 1

    def whole(self) -> Jdl:
        self._skip()
        is_open = self._take("[")
        found = self._record("", 0, is_open=is_open)
        self._skip()
        if self._at < len(self._text):
            self._fail("", f"{self._rest()} is left over: is a bracket too many before it?")
        if not found.values and not found.records:
            self._fail("", "there is nothing in it: a description has at least an Executable")
        return found

    def _record(self, within: str, depth: int, *, is_open: bool) -> Jdl:
        if depth > MOST_DEEP:
            self._fail(within, f"more than {MOST_DEEP} values within each other")
        values: dict[str, JdlValue] = {}
        records: dict[str, Jdl] = {}
        while True:
            self._skip()
            if is_open and self._take("]"):
                return Jdl(values, records)
            if self._at >= len(self._text):
                if depth:
                    self._fail(within, "is not ended by a bracket; the text is cut off")
                return Jdl(values, records)
            key = self._key(within)
            if len(values) + len(records) >= MOST_KEYS:
                self._fail(key, f"more than {MOST_KEYS} keys")
            if self._take("["):
                records[key.lower()] = self._record(key, depth + 1, is_open=True)
            else:
                values[key.lower()] = self._value(key)

    def _key(self, within: str) -> str:
        found = _KEY.match(self._text, self._at)
        if found is None:
            self._fail(within, f"{self._rest()}: must be a key and what it is set to, as in CPUTime = 3600;")
        self._at = found.end()
        self._at = _spaces_after(self._text, self._at)
        return found[1]

    def _value(self, key: str) -> JdlValue:
        line = self._line_now()
        if self._take("{"):
            members: list[str] = []
            self._list(key, members, 1)
            self._demand_end(key)
            return JdlValue(line, tuple(members), is_list=True)
        if self._text.startswith('"', self._at):
            text = self._string(key)
            self._demand_end(key)
            return JdlValue(line, (text,))
        if _KEY.match(self._text, self._at) and "\n" in self._text[self._text.rindex("=", 0, self._at) : self._at]:
            return JdlValue(line, ("",))
        return JdlValue(line, (self._bare(),))

    def _list(self, key: str, members: list[str], depth: int) -> None:
        """Read on to the end of a list, and of those within it, whose members are its own."""
        if depth > MOST_DEEP:
            self._fail(key, f"more than {MOST_DEEP} values within each other")
        while True:
            self._at = _skipped(_BLANKS, self._text, self._at)
            if self._take("}"):
                return
            if self._at >= len(self._text):
                self._fail(key, "the list is not ended by }; the text is cut off")
            if len(members) >= MOST_MEMBERS:
                self._fail(key, f"more than {MOST_MEMBERS} members")
            if self._take("{"):
                self._list(key, members, depth + 1)
            elif self._text.startswith('"', self._at):
                members.append(self._string(key))
            else:
                members.append(self._member(key))

    def _member(self, key: str) -> str:
        found = _MEMBER.match(self._text, self._at)
        if found is None or found.end() == self._at:
            self._fail(key, f"{self._rest()} cannot stand in a list")
        self._at = found.end()
        if _KEY.fullmatch(found[0].split(";")[-1].strip()) or ";" in found[0]:
            self._fail(key, "the list is not ended by }")
        return _without_marks(found[0])

    def _string(self, key: str) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None:
            self._fail(key, 'what begins with " does not end with one')
        self._at = found.end()
        return _ESCAPED.sub(r"\1", found[1])

    def _demand_end(self, key: str) -> None:
        """What follows a value that has an end of its own: nothing, a bracket, or another key."""
        self._at = _spaces_after(self._text, self._at)
        if _AFTER.match(self._text, self._at) or _KEY.match(self._text, self._at):
            return
        advice = 'a quote within quotes is written as \\", and DIRAC ends a value at a ; within quotes: send a script'
        self._fail(key, f"{self._rest()} follows the end of its value: {advice}")

    def _bare(self) -> str:
        """Read a value without quotes: to ``;``, to a line that begins with a key, or to the record's end."""
        begin, depth = self._at, 0
        for stop in _STOP.finditer(self._text, begin):
            sign = stop[0][0]
            if sign == '"':
                continue
            if sign in "[]":
                depth += 1 if sign == "[" else -1
            if depth < 0 or (sign not in "[]" and (depth == 0 or sign != ";")):
                self._at = stop.start()
                break
        else:
            self._at = len(self._text)
        return _without_marks(_REMARK.sub("", self._text[begin : self._at]))

    def _skip(self) -> None:
        self._at = _skipped(_BETWEEN, self._text, self._at)

    def _take(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _rest(self) -> str:
        return quoted(self._text[self._at : self._at + 2 * MOST_QUOTED].split("\n")[0])

    def _line_now(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _fail(self, key: str, reason: str) -> NoReturn:
        raise JdlError(self._line_now(), key, reason)


def _skipped(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _spaces_after(text: str, at: int) -> int:
    """Pass over blanks, and over the ends of lines where a value or an end has yet to come."""
    return _skipped(_SPACES, text, at)


def _without_marks(text: str) -> str:
    """Give a bare value without blanks around it, and without apostrophes around all of it."""
    bare = " ".join(text.split()) if "\n" in text else text.strip()
    is_marked = len(bare) > 1 and bare[0] == bare[-1] == "'" and bare.count("'") == 2
    return bare[1:-1] if is_marked else bare


_SPACES = re.compile(r"\s*+")
