"""How a blocking twin is made of a class for asyncio: each method is the other's, run in the client's loop.

    class BlockingHosts(Blocking[AsyncHosts]):
        list = blocking(AsyncHosts.list)

It keeps the name, the parameters and the docstring, for people and for type checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from volcloud.loop_thread import LoopThread

#: The twin; what is blocking for a class is so for what it inherits from.
A = TypeVar("A", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Blocking(Generic[A]):
    """Base of a twin. For any number of threads."""

    def __init__(self, twin: A, thread: LoopThread) -> None:
        self._twin, self._thread = twin, thread


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Blocking[A], P], R]:
    """Make a method that runs the twin's to its end; interrupted, that is cancelled. It raises what the twin's does,
    and Disconnected when the client is closed meanwhile."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.wait_for(method(self._twin, *args, **kwargs))

    call.__qualname__ = f"Blocking{method.__qualname__.removeprefix('Async')}"
    return call
