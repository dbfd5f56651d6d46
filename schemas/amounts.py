"""Amounts as people write them: ``"2GB"`` of memory, ``"90 min"`` of time.

A unit is understood where only one reading is of use: memory and disk count in powers of two, as the tools of virtual
machines do, so that 2GB and 2GiB are both 2048 MiB. A number without a unit is in the unit of its field.
"""

from __future__ import annotations

import re

_AMOUNT = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-z]*)\s*")
_MIB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}


def read_mib(text: str) -> int | None:
    """Read an amount of memory or disk, MiB; None where it is none. What is no whole MiB is rounded up."""
    number, unit = _parts(text)
    factor = _MIB.get(unit.removesuffix("b").removesuffix("i"), 0 if unit else 1)
    return -int(-number * factor // 1) if number is not None and factor else None


def read_seconds(text: str) -> float | None:
    """Read a time, seconds; None where it is none."""
    number, unit = _parts(text)
    factor = _SECONDS.get(unit, 0 if unit else 1)
    return number * factor if number is not None and factor else None


def _parts(text: str) -> tuple[float | None, str]:
    found = _AMOUNT.fullmatch(text)
    return (float(found[1].replace(",", ".")), found[2].lower()) if found else (None, "")
