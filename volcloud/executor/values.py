"""What a call gives, as it travels home: JSON that says what each thing is: it is read, and nothing of it is run.

A guest is somebody else's machine, and whoever unpickles what it says runs what it wants. Here an object is made
without its own code: of a class that this program has loaded already, from plain fields. The guest writes it with this
same module, and has nothing but Python.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import io
import sys
import uuid
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import PurePath, PurePosixPath
from typing import Any

from volcloud.errors import CannotTravel, RemoteException

#: How deep things may lie in each other; Python reads no deeper JSON.
MOST_DEEP = 200
#: Integers that JSON readers take as they are.
_PLAIN_INT = 1 << 62
#: The longest integer that is read, hexadecimal digits; the longest decimal number, characters.
_MOST_DIGITS, _MOST_DECIMAL = 1 << 20, 10_000


def write(value: Any, deep: int = 0) -> Any:
    """Turn a value into what JSON has. Raises CannotTravel, which names the type."""
    if deep > MOST_DEEP:
        raise CannotTravel(f"it is nested deeper than {MOST_DEEP}")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_PLAIN_INT < value < _PLAIN_INT else ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *(write(one, deep + 1) for one in value)]
    if kind is dict:
        return ["dict", *([write(key, deep + 1), write(one, deep + 1)] for key, one in value.items())]
    if kind in _PLAIN:
        return [_PLAIN[kind].tag, _PLAIN[kind].write(value)]
    return _write_object(value, deep + 1)


def read(tree: Any, deep: int = 0) -> Any:
    """Make what ``write`` was given. Raises CannotTravel for what is no such thing, whatever it is."""
    if tree is None or isinstance(tree, bool | str | int):
        return tree
    if not isinstance(tree, list) or not tree or not isinstance(tree[0], str) or deep > MOST_DEEP:
        raise CannotTravel(f"no value: {_short(tree)}")
    tag, *parts = tree
    try:
        if tag in _MAKERS:
            return _MAKERS[tag](read(one, deep + 1) for one in parts)
        if tag == "dict":
            return {read(key, deep + 1): read(one, deep + 1) for key, one in parts}
        if tag in _READERS:
            return _READERS[tag](*parts)
        if tag in _OBJECTS:
            return _OBJECTS[tag](*parts, deep + 1)
    except CannotTravel:
        raise
    except Exception as error:  # whatever a guest has written
        raise CannotTravel(f"no {tag}: {type(error).__name__}: {_short(str(error))}") from error
    raise CannotTravel(f"no kind of value: {_short(tag)}")


def write_error(error: BaseException, deep: int = 0) -> Any:
    """Turn an exception into what JSON has; what it holds that cannot travel goes as text."""
    state = {name: one for name, one in vars(error).items() if not name.startswith("__")}
    return [
        "error",
        *_name_of(type(error)),
        [_write_or_text(one, deep + 1) for one in _arguments(error)],
        {str(name): _write_or_text(one, deep + 1) for name, one in state.items()},
        _text(error),
    ]


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """Give what it is made of: Python's own keep some of it beside ``args``."""
    if type(error).__module__ == "builtins":
        reduced = error.__reduce__()
        return reduced[1] if isinstance(reduced, tuple) and isinstance(reduced[1], tuple) else error.args
    return error.args


def _write_or_text(value: Any, deep: int) -> Any:
    try:
        return write(value, deep)
    except CannotTravel:
        return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  its own code, which may do anything
        return f"<{type(value).__name__}>"


def _write_object(value: Any, deep: int) -> Any:
    kind = type(value)
    if isinstance(value, BaseException):
        return write_error(value, deep)
    if isinstance(value, enum.Enum):
        return ["enum", *_name_of(kind), value.name]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["named", *_name_of(kind), [write(one, deep) for one in value]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: write(getattr(value, field.name), deep) for field in dataclasses.fields(value)}
        return ["data", *_name_of(kind), fields]
    if isinstance(value, PurePath):
        return ["path", str(value)]
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _write_array(numpy, value)
    raise CannotTravel(f"a {kind.__module__}.{kind.__qualname__}")


def _write_array(numpy: Any, value: Any) -> Any:
    written = io.BytesIO()
    try:
        numpy.save(written, value, allow_pickle=False)
    except ValueError as error:
        raise CannotTravel(f"a numpy array of {value.dtype}: {error}") from error
    return ["array" if isinstance(value, numpy.ndarray) else "scalar", _to_text(written.getvalue())]


def _read_array(text: str) -> Any:
    import numpy  # type: ignore[import-not-found,unused-ignore]  # a result that holds one; the guest had it

    return numpy.load(io.BytesIO(_to_bytes(text)), allow_pickle=False)


def _read_error(module: str, name: str, args: list[Any], state: Mapping[str, Any], text: str, deep: int) -> Any:
    found = [read(one, deep) for one in args]
    try:
        kind = _class(module, name, BaseException)
    except CannotTravel:
        return RemoteException(f"{module}.{name}: {text}", "import the module that it is of, to have it as it was")
    # Those of Python itself are made whole; another's own code is not run on what a guest says.
    if module == "builtins":
        error = kind(*found)
    else:
        error = kind.__new__(kind, *found)
        error.args = tuple(found)
    vars(error).update((key, read(one, deep)) for key, one in state.items() if not key.startswith("__"))
    return error


def _read_enum(module: str, name: str, member: str, deep: int) -> Any:
    return _class(module, name, enum.Enum)[member]


def _read_named(module: str, name: str, items: list[Any], deep: int) -> Any:
    kind = _class(module, name, tuple)
    if len(items) != len(kind._fields):
        raise CannotTravel(f"{module}.{name} has {len(kind._fields)} fields, and here are {len(items)}")
    return tuple.__new__(kind, [read(one, deep) for one in items])


def _read_data(module: str, name: str, fields: Mapping[str, Any], deep: int) -> Any:
    kind = _class(module, name, object)
    names = {field.name for field in dataclasses.fields(kind)}
    if names != fields.keys():
        raise CannotTravel(f"{module}.{name} has the fields {sorted(names)}, and here are {sorted(fields)}")
    made = object.__new__(kind)
    for key, one in fields.items():
        object.__setattr__(made, key, read(one, deep))
    return made


def _class(module: str, name: str, base: type) -> Any:
    """Give a class of a module that is loaded already: nothing is imported because a guest says so."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    if not isinstance(found, type) or not issubclass(found, base) or _name_of(found) != (module, name):
        raise CannotTravel(f"{module}.{name} is no such class here: define it in a module, and import that")
    return found


def _name_of(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _to_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise CannotTravel(f"an integer of more than {_MOST_DIGITS} digits")
    return int(text, 16)


def _decimal(text: str) -> decimal.Decimal:
    if len(text) > _MOST_DECIMAL:
        raise CannotTravel(f"a number of more than {_MOST_DECIMAL} characters")
    return decimal.Decimal(text)


def _short(value: Any) -> str:
    return repr(value)[:100]


class _Kind:
    """How something without parts is written, and read."""

    def __init__(self, tag: str, write: Callable[[Any], Any], read: Callable[..., Any]) -> None:
        self.tag, self.write, self.read = tag, write, read


_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAKERS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_PLAIN: dict[type, _Kind] = {
    bytes: _Kind("bytes", _to_text, _to_bytes),
    bytearray: _Kind("bytearray", _to_text, lambda text: bytearray(_to_bytes(text))),
    complex: _Kind("complex", lambda z: [z.real.hex(), z.imag.hex()], lambda z: complex(*map(float.fromhex, z))),
    range: _Kind("range", lambda r: [hex(n) for n in (r.start, r.stop, r.step)], lambda r: range(*map(_int, r))),
    datetime.datetime: _Kind("datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: _Kind("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: _Kind("time", datetime.time.isoformat, datetime.time.fromisoformat),
    datetime.timedelta: _Kind(
        "timedelta", lambda t: [t.days, t.seconds, t.microseconds], lambda t: datetime.timedelta(*map(int, t))
    ),
    decimal.Decimal: _Kind("decimal", str, _decimal),
    Fraction: _Kind("fraction", lambda f: [hex(f.numerator), hex(f.denominator)], lambda f: Fraction(*map(_int, f))),
    uuid.UUID: _Kind("uuid", str, uuid.UUID),
}
_READERS: dict[str, Callable[..., Any]] = {
    **{kind.tag: kind.read for kind in _PLAIN.values()},
    "int": _int,
    "float": float.fromhex,
    "path": PurePosixPath,
    "array": _read_array,
    "scalar": lambda text: _read_array(text)[()],
}
_OBJECTS: dict[str, Callable[..., Any]] = {
    "error": _read_error,
    "enum": _read_enum,
    "named": _read_named,
    "data": _read_data,
}
