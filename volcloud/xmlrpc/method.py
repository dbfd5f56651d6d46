"""What a call is: its name in the original, what it takes, and the coroutine that does it.

A call's parameters are those of its coroutine, after the room: their names in the original's spelling, their types, and
their defaults. Arguments are checked against them before anything is done.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints
from weakref import WeakValueDictionary

import msgspec

from volcloud.client import AsyncClient
from volcloud.xmlrpc.command_book import CommandBook
from volcloud.xmlrpc.faults import FaultCode, fault


class Generation(StrEnum):
    """Which of the two controllers had a call."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"


@dataclass(frozen=True)
class Room:
    """What calls work with."""

    client: AsyncClient
    book: CommandBook
    #: Paths of files that are no absolute ones are below it.
    directory: Path
    #: Paths must be in it; None: wherever the user may read and write.
    files: Path | None = None
    _readers: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def reading(self, command: str) -> asyncio.Lock:
        """Give the turn at a command's output, which its VM gives to one reader at a time."""
        return self._readers.setdefault(command, asyncio.Lock())


#: Does a call; gives what XML-RPC can carry. Raises Fault, or what the client raises.
Does = Callable[..., Awaitable[Any]]


class Parameter(NamedTuple):
    """One parameter, in the original's spelling."""

    name: str
    type: Any
    default: Any = inspect.Parameter.empty

    @property
    def is_required(self) -> bool:
        """It has no default."""
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        return self.name if self.is_required else f"{self.name}={self.default!r}"


class XmlRpcMethod(NamedTuple):
    """One call of the table."""

    name: str
    generation: Generation
    does: Does
    parameters: tuple[Parameter, ...]

    @property
    def text(self) -> str:
        """What it does, for people."""
        return inspect.cleandoc(self.does.__doc__ or "").replace("\n", " ")

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))})"

    async def call(self, room: Room, given: Sequence[Any]) -> Any:
        """Check the arguments and do it. Raises Fault, and what the client raises."""
        return await self.does(room, *self._checked(given))

    def _checked(self, given: Sequence[Any]) -> list[Any]:
        least = sum(one.is_required for one in self.parameters)
        if not least <= len(given) <= len(self.parameters):
            allowed = f"{least}" if least == len(self.parameters) else f"{least} to {len(self.parameters)}"
            text = f"{self} takes {allowed} arguments and has {len(given)}"
            raise fault(FaultCode.BAD_ARGUMENT, text, f"`help('{self.name}')` tells what they are")
        return [self._converted(one, value) for one, value in zip(self.parameters, given, strict=False)]

    def _converted(self, parameter: Parameter, value: Any) -> Any:
        try:
            return msgspec.convert(value, parameter.type)
        except (msgspec.ValidationError, RecursionError) as error:
            text = f"{self.name}: {parameter.name}: {error}"
            raise fault(FaultCode.BAD_ARGUMENT, text, f"`help('{self.name}')` tells what it takes") from error


def method(name: str, generation: Generation, does: Does) -> XmlRpcMethod:
    """Make a call of a coroutine whose first parameter is the room."""
    hints = get_type_hints(does, include_extras=True)
    _, *others = inspect.signature(does).parameters.values()
    parameters = tuple(Parameter(_camel(one.name), hints[one.name], one.default) for one in others)
    return XmlRpcMethod(name, generation, does, parameters)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))
