"""What came beside a body: AMQP's content properties, read so that no octet of theirs can raise or cost much.

A sender decides these octets, and a library that trusts them takes its reader down: a time above the year 9999, a table
in a table two thousand deep. What cannot be read is said to be ``UNREADABLE`` and named as a flaw. Pure; knows no AMQP
library, which reads the usual ones faster.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from broker.errors import Unreadable

#: Stands for a value that could not be read.
UNREADABLE = "unreadable"
#: Longest properties that messages of ours have, bytes; longer ones are read here and never by the library, whose time
#: grows with them: 60,000 empty values take it 30 ms.
MOST_BYTES = 4096
#: Tables in tables, and values in all, that are read; what goes beyond is skipped by its length.
MOST_DEPTH = 8
MOST_VALUES = 256
#: Begin of the year 10000, seconds since 1970: no ``datetime`` is later.
_END_OF_TIME_S = 253402300800

#: Properties by their flag, in the order in which they lie on the wire, and how each is read.
_SHORT, _TABLE, _OCTET, _TIME = "short", "table", "octet", "time"
_PROPERTIES = (
    (15, "content_type", _SHORT),
    (14, "content_encoding", _SHORT),
    (13, "headers", _TABLE),
    (12, "delivery_mode", _OCTET),
    (11, "priority", _OCTET),
    (10, "correlation_id", _SHORT),
    (9, "reply_to", _SHORT),
    (8, "expiration", _SHORT),
    (7, "message_id", _SHORT),
    (6, "timestamp", _TIME),
    (5, "type", _SHORT),
    (4, "user_id", _SHORT),
    (3, "app_id", _SHORT),
    (2, "cluster_id", _SHORT),
)
#: Field values of a fixed size, by the octet that names their type.
_FIXED = {
    b"b": ">b", b"B": ">B", b"U": ">h", b"s": ">h", b"u": ">H", b"I": ">i", b"i": ">I", b"L": ">q", b"l": ">q",
    b"f": ">f", b"d": ">d",
}  # fmt: skip


class Content(Struct, frozen=True):
    """Properties by name, and what is wrong with them; no flaw: nothing."""

    properties: dict[str, Any]
    flaw: str = ""


class _Octets:
    """Octets being read, and the flaws found in them. Parts share the flaws and the budget of the whole."""

    def __init__(self, octets: bytes, whole: _Octets | None = None) -> None:
        self._octets, self._at = octets, 0
        self._whole = whole or self
        self._values = 0
        self._flaws: list[str] = []

    @property
    def flaw(self) -> str:
        """The first thing that is wrong; one is enough."""
        return self._whole._flaws[0] if self._whole._flaws else ""

    @property
    def is_spent(self) -> bool:
        """More values were read than anybody needs."""
        return self._whole._values > MOST_VALUES

    def has_more(self) -> bool:
        return self._at < len(self._octets)

    def note(self, flaw: str) -> str:
        """Note what is wrong, and stand in for the value."""
        self._whole._flaws.append(flaw)
        return UNREADABLE

    def count(self) -> None:
        self._whole._values += 1

    def take(self, size: int) -> bytes:
        taken = self._octets[self._at : self._at + size]
        self._at += size
        if len(taken) < size:
            raise Unreadable("cut short")
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def part(self) -> _Octets:
        """What has its length in four octets before it."""
        return _Octets(self.take(self.number(4)), self._whole)

    def text(self, size: int) -> str:
        raw = self.take(size)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return self.note("a name that is not UTF-8")


def read_content(octets: bytes) -> Content:
    """Read content properties: all that can be read of them, and the flaw. Raises nothing, whatever the octets."""
    source = _Octets(octets)
    found: dict[str, Any] = {}
    if len(octets) > MOST_BYTES:
        source.note(f"{len(octets)} bytes of properties, where {MOST_BYTES} are allowed")
    try:
        flags = source.number(2)
        if flags & 1:
            raise Unreadable("flags of properties that do not exist")
        for bit, name, how in _PROPERTIES:
            if flags >> bit & 1:
                found[name] = _READERS[how](source)
    except Unreadable as lost:
        source.note(str(lost))
    return Content(found, source.flaw)


def _time(source: _Octets) -> int:
    return source.number(8)


def _short(source: _Octets) -> str:
    return source.text(source.number(1))


def _octet(source: _Octets) -> int:
    return source.number(1)


def _headers(source: _Octets) -> dict[str, Any]:
    return _table(source.part(), 1)


_READERS = {_SHORT: _short, _TABLE: _headers, _OCTET: _octet, _TIME: _time}


def _table(source: _Octets, depth: int) -> dict[str, Any]:
    """Read a table as far as it goes: what is behind it is found by its length."""
    table: dict[str, Any] = {}
    try:
        while source.has_more() and not source.is_spent:
            name = _short(source)
            table[name] = _value(source, depth)
    except Unreadable as lost:
        source.note(str(lost))
    return table


def _array(source: _Octets, depth: int) -> list[Any]:
    array: list[Any] = []
    try:
        while source.has_more() and not source.is_spent:
            array.append(_value(source, depth))
    except Unreadable as lost:
        source.note(str(lost))
    return array


def _value(source: _Octets, depth: int) -> Any:
    """Read one field value, its type first. Raises Unreadable."""
    source.count()
    if source.is_spent:
        return source.note(f"more than {MOST_VALUES} values")
    kind = source.take(1)
    if kind in _FIXED:
        return struct.unpack(_FIXED[kind], source.take(struct.calcsize(_FIXED[kind])))[0]
    if kind in (b"S", b"x"):
        return _long_string(source.part(), is_text=kind == b"S")
    if kind in (b"A", b"F"):
        return _nested(source, depth, _array if kind == b"A" else _table)
    return _rare(source, kind)


def _long_string(source: _Octets, *, is_text: bool) -> str | bytes:
    """As the library does: what should be text and is none stays octets."""
    raw = source.rest()
    if not is_text:
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _nested(source: _Octets, depth: int, read: Any) -> Any:
    inner = source.part()
    return read(inner, depth + 1) if depth < MOST_DEPTH else source.note(f"tables nested deeper than {MOST_DEPTH}")


def _rare(source: _Octets, kind: bytes) -> Any:
    if kind == b"V":
        return None
    if kind == b"t":
        return bool(source.number(1))
    if kind == b"T":
        seconds = source.number(8)
        is_time = seconds < _END_OF_TIME_S
        return datetime.fromtimestamp(seconds, UTC) if is_time else source.note("a time after the year 9999")
    if kind == b"D":
        places, raw = source.number(1), struct.unpack(">i", source.take(4))[0]
        return Decimal(raw) * Decimal(10) ** -places
    raise Unreadable(f"a field of the unknown type {kind!r}")
