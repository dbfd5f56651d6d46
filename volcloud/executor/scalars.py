"""Values without parts, as they travel home from a guest: numbers of any size, bytes, dates and times.

As ``values``, it has nothing but Python.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import uuid
import zoneinfo
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from volcloud.errors import CannotTravel

#: The longest integer, hexadecimal digits; the longest decimal number or part of a fraction, digits: what is made of
#: them takes the square of that.
MOST_DIGITS, MOST_DECIMAL = 1 << 20, 10_000


class Scalar:
    """How something without parts is written, and read."""

    def __init__(self, tag: str, write: Callable[[Any], Any], read: Callable[..., Any]) -> None:
        self.tag, self.write, self.read = tag, write, read


def to_text(value: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(value).decode()


def to_bytes(text: str) -> bytes:
    """Read base64. Raises ValueError."""
    return base64.b64decode(text, validate=True)


def digits(number: int, most: int) -> str:
    """Write an integer in hexadecimal digits, ``most`` at most. Raises CannotTravel."""
    if number.bit_length() > 4 * most:
        raise CannotTravel(f"an integer of more than {most} hexadecimal digits")
    return hex(number)


def read_int(text: str, most: int = MOST_DIGITS) -> int:
    """Read hexadecimal digits, ``most`` at most. Raises CannotTravel, ValueError."""
    if len(text) > most + len("-0x"):
        raise CannotTravel(f"an integer of more than {most} digits")
    return int(text, 16)


def _short_int(text: str) -> int:
    return read_int(text, MOST_DECIMAL)


def _write_decimal(number: decimal.Decimal) -> str:
    text = str(number)
    if len(text) > MOST_DECIMAL:
        raise CannotTravel(f"a number of more than {MOST_DECIMAL} characters")
    return text


def _read_decimal(text: str) -> decimal.Decimal:
    if len(text) > MOST_DECIMAL:
        raise CannotTravel(f"a number of more than {MOST_DECIMAL} characters")
    return decimal.Decimal(text)


def _write_moment(moment: datetime.datetime | datetime.time) -> list[Any]:
    """Tell date and time, which of two that a change of clocks makes, and the zone."""
    zone = moment.tzinfo
    if zone is None:
        told: Any = None
    elif type(zone) is datetime.timezone:
        offset = zone.utcoffset(None)
        told = [offset.days, offset.seconds, offset.microseconds]
    elif isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        told = zone.key
    else:
        raise CannotTravel(f"a time of the zone {type(zone).__module__}.{type(zone).__qualname__}")
    return [moment.replace(tzinfo=None).isoformat(), moment.fold, told]


def _read_moment(read: Callable[[str], Any]) -> Callable[[list[Any]], Any]:
    def make(told: list[Any]) -> Any:
        text, fold, zone = told
        if zone is None:
            info: datetime.tzinfo | None = None
        elif isinstance(zone, str):
            info = zoneinfo.ZoneInfo(zone)
        else:
            info = datetime.timezone(datetime.timedelta(*map(int, zone)))
        return read(text).replace(tzinfo=info, fold=fold)

    return make


#: By type.
PLAIN: dict[type, Scalar] = {
    bytes: Scalar("bytes", to_text, to_bytes),
    bytearray: Scalar("bytearray", to_text, lambda text: bytearray(to_bytes(text))),
    complex: Scalar("complex", lambda z: [z.real.hex(), z.imag.hex()], lambda z: complex(*map(float.fromhex, z))),
    range: Scalar(
        "range",
        lambda r: [digits(n, MOST_DECIMAL) for n in (r.start, r.stop, r.step)],
        lambda r: range(*map(_short_int, r)),
    ),
    datetime.datetime: Scalar("datetime", _write_moment, _read_moment(datetime.datetime.fromisoformat)),
    datetime.date: Scalar("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: Scalar("time", _write_moment, _read_moment(datetime.time.fromisoformat)),
    datetime.timedelta: Scalar(
        "timedelta", lambda t: [t.days, t.seconds, t.microseconds], lambda t: datetime.timedelta(*map(int, t))
    ),
    decimal.Decimal: Scalar("decimal", _write_decimal, _read_decimal),
    Fraction: Scalar(
        "fraction",
        lambda f: [digits(n, MOST_DECIMAL) for n in (f.numerator, f.denominator)],
        lambda f: Fraction(*map(_short_int, f)),
    ),
    uuid.UUID: Scalar("uuid", str, uuid.UUID),
}
