"""Numbers on a command line: whole ones within bounds, memory and time with a unit where people write one.

What is no such number is refused with what is allowed and an example, never with the name of a type.
"""

from __future__ import annotations

from typing import Any, NoReturn

import click

from schemas.amounts import read_mib, read_seconds


class Whole(click.ParamType[Any]):
    """A whole number within bounds."""

    name = "number"

    def __init__(self, least: int = 0, most: int | None = None, *, example: str = "") -> None:
        self._least, self._most = least, most
        self._example = example or str(max(least, 2))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        number = value if isinstance(value, int) else self._read(str(value))
        if number is None or number < self._least or (self._most is not None and number > self._most):
            self._refuse(value, param, ctx)
        return number

    def _read(self, text: str) -> int | None:
        digits = text.strip().removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() else None

    def _what(self) -> str:
        return "a whole number"

    def _refuse(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        upto = f"from {self._least:,} to {self._most:,}" if self._most is not None else f"of at least {self._least:,}"
        option = f"{param.opts[0]} " if param else ""
        self.fail(f"{value!r} must be {self._what()} {upto}; an example: {option}{self._example}", param, ctx)


class Mib(Whole):
    """An amount of memory or disk; MiB where no unit stands."""

    name = "size"

    def __init__(self, least: int) -> None:
        super().__init__(least, example="2GB")

    def _read(self, text: str) -> int | None:
        return read_mib(text)

    def _what(self) -> str:
        return "MiB, or an amount with a unit,"


class Seconds(click.ParamType[Any]):
    """A time; seconds where no unit stands."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        seconds = float(value) if isinstance(value, int | float) else read_seconds(str(value))
        if seconds is None or seconds <= 0:
            option = f"{param.opts[0]} " if param else ""
            self.fail(f"{value!r} must be seconds, or a time with a unit; an example: {option}90min", param, ctx)
        return seconds
