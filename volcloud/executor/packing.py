"""Calls as they travel to a guest: pickled by value, checked before anything is sent, laid out in a file."""

from __future__ import annotations

import functools
import inspect
import io
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from volcloud.errors import BadInput, CannotTravel

#: A call: what is called (None: what all share), and with what.
Call = tuple[Callable[..., Any] | None, Sequence[Any], Mapping[str, Any]]
#: cloudpickle keeps in one list for all threads which modules travel by value.
_by_value_lock = threading.Lock()
_NEXT_STEP = "give the call what it needs as numbers, text or bytes, or have it open or make that in the guest"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it says nothing of its types
    """As cloudpickle's, which would send a file's content in its place, and without saying so."""

    #: The one that is part of what was to be pickled.
    open_file: Any = None

    def reducer_override(self, obj: Any) -> Any:
        """Refuse open files."""
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
            self.open_file = obj
            raise CannotTravel(f"an open file: {getattr(obj, 'name', type(obj).__name__)}")
        return super().reducer_override(obj)


def pickle_function(function: Callable[..., Any]) -> bytes:
    """Pickle what all calls share. Raises BadInput, which names what cannot travel."""
    return _pickled(function, function, (), {})


def pickle_calls(calls: Sequence[Call], function: Callable[..., Any] | None = None) -> bytes:
    """Pickle a chunk of calls; ``function`` is what they share. Raises BadInput, which names what cannot travel."""
    called, args, named = calls[0]
    if len(calls) == 1:
        return _pickled([*calls], function or called, args, named)
    kinds = {type(value): value for _, given, by_name in calls for value in (*given, *by_name.values())}
    alike = [value for _, given, by_name in calls for value in (*given, *by_name.values()) if callable(value)]
    try:
        return _pickled([*calls], function or called, [*kinds.values(), *alike], {})
    except BadInput:
        for one in calls:
            pickle_calls([one], function)
        raise


def lay_out(chunks: Sequence[bytes], *, has_shared: bool, trusted: bool) -> bytes:
    """Give the head of the file of calls; the chunks follow."""
    head = {
        "python": list(sys.version_info[:3]),
        "trusted": trusted,
        "shared": has_shared,
        "chunks": [len(chunk) for chunk in chunks],
    }
    return json.dumps(head).encode() + b"\n"


def _pickled(value: Any, function: Any, args: Sequence[Any], named: Mapping[str, Any]) -> bytes:
    written = io.BytesIO()
    pickler = _Pickler(written)
    try:
        with _by_value(_modules_of([function, *args, *named.values()])):
            pickler.dump(value)
    except Exception as error:  # pickling runs code of the values' own
        if (file := pickler.open_file) is not None:
            text = f"{_place(file, function, args, named)} is the open file {getattr(file, 'name', file)!r}"
            raise BadInput(f"{_name(function)}: {text}: it cannot travel", _NEXT_STEP) from None
        raise BadInput(f"{_name(function)}: cannot travel: {error}", _NEXT_STEP) from error
    return written.getvalue()


def _place(wanted: Any, function: Any, args: Sequence[Any], named: Mapping[str, Any]) -> str:
    """Say by what name a call knows something."""
    for place, value in _names(function, args, named):
        if value is wanted:
            return place
    return "something that it holds"


def _names(function: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"argument {number}", value) for number, value in enumerate(args, 1))
    yield from ((f"argument {name!r}", value) for name, value in named.items())
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"its variable {name!r}", cell.cell_contents
        except ValueError:
            continue  # one that has no value yet
    yield from ((f"its global {name!r}", function.__globals__.get(name)) for name in code.co_names)
    yield from ((f"its default {value!r}", value) for value in function.__defaults__ or ())


def _modules_of(things: Iterable[Any]) -> set[ModuleType]:
    """Find the modules that functions, classes and objects are of, also those that a partial function holds."""
    found: set[ModuleType] = set()
    for one in things:
        if isinstance(one, functools.partial):
            found |= _modules_of([one.func, *one.args, *one.keywords.values()])
        else:
            module = inspect.getmodule(one) if callable(one) else sys.modules.get(type(one).__module__)
            found |= {module} if module is not None else set()
    return found


@contextmanager
def _by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Have modules travel that are the person's own: a guest has what is installed, at best."""
    with _by_value_lock:
        known = cloudpickle.list_registry_pickle_by_value()
        own = [module for module in modules if _is_own(module) and module.__name__ not in known]
        for module in own:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in own:
                cloudpickle.unregister_pickle_by_value(module)


def _is_own(module: ModuleType) -> bool:
    if module.__name__ == "__main__" or module.__name__.partition(".")[0] in sys.stdlib_module_names:
        return False
    file = getattr(module, "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"} & {*Path(file).parts}


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
