"""How a blocking twin is made of a class for asyncio: each method is the other's, run in the client's loop.

    class BlockingHosts(Blocking[AsyncHosts]):
        list = blocking(AsyncHosts.list)

It keeps the name, the parameters and the docstring, for people and for type checkers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from volcloud.loop_thread import LoopThread

A = TypeVar("A")
#: A method may be of a part of the twin.
A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Blocking(Generic[A_co]):
    """Base of a twin. For any number of threads."""

    def __init_subclass__(cls) -> None:
        """Have each method bear the name of the class that it is called on, whoever defined the twin's."""
        super().__init_subclass__()
        for name, method in vars(cls).items():
            if inspect.isfunction(method):
                method.__qualname__ = f"{cls.__qualname__}.{name}"

    def __init__(self, twin: A_co, thread: LoopThread) -> None:
        self._twin, self._thread = twin, thread


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Blocking[A], P], R]:
    """Make a method that runs the twin's to its end; interrupted, that is cancelled. It raises what the twin's does,
    and Disconnected when the client is closed meanwhile."""

    @wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._thread.wait_for(method(self._twin, *args, **kwargs))

    return call
