"""What a call gives, as it travels home: JSON that says what each thing is: it is read, and nothing of it is unpickled.

A guest is somebody else's machine, and whoever unpickles what it says runs what it wants. Here an object is made from
plain fields, of a class that this program has loaded already, without the class's own ``__new__`` and ``__init__``.
What is left of its own code is what any container runs: ``__hash__`` and ``__eq__`` of what lies in a set or is a key.
The guest writes it with this same module, and has nothing but Python.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import PurePath, PurePosixPath
from typing import Any

from volcloud.errors import CannotTravel, RemoteException
from volcloud.executor.scalars import MOST_DIGITS, PLAIN, digits, read_int, to_bytes, to_text

#: How deep things may lie in each other; Python reads no deeper JSON.
MOST_DEEP = 200
#: Integers that JSON readers take as they are.
_PLAIN_INT = 1 << 62
#: Keys that may have one hash: a table of such takes the square of their number. And bits of a number that is a key, as
#: numbers of several kinds are compared by making them one kind.
_MOST_ALIKE, _MOST_KEY_BITS = 20, 4096
#: What a ``UnicodeDecodeError`` is made of: encoding, text, start, end, reason.
_UNICODE_PARTS = 5
#: Of the text that an exception holds, characters: Python shows it unasked.
_MOST_WORDS = 20_000
#: Packages whose exceptions say something of this program itself: from a guest nobody shall take them for that.
_OF_PROGRAMS = frozenset({"asyncio", "broker", "click", "concurrent", "multiprocessing", "schemas", "volcloud"})


def write(value: Any, deep: int = 0) -> Any:
    """Turn a value into what JSON has. Raises CannotTravel, which names the type."""
    if deep > MOST_DEEP:
        raise CannotTravel(f"it is nested deeper than {MOST_DEEP}")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_PLAIN_INT < value < _PLAIN_INT else ["int", digits(value, MOST_DIGITS)]
    if kind is float:
        return ["float", value.hex()]
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *(write(one, deep + 1) for one in value)]
    if kind is dict:
        return ["dict", *([write(key, deep + 1), write(one, deep + 1)] for key, one in value.items())]
    if kind in PLAIN:
        return [PLAIN[kind].tag, PLAIN[kind].write(value)]
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
            keys = _keys(read(key, deep + 1) for key, _ in parts)
            return dict(zip(keys, (read(one, deep + 1) for _, one in parts), strict=True))
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
    """Turn an exception into what JSON has; what it holds that cannot travel goes as text. Never fails."""
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
    except Exception:  # noqa: BLE001  its own code, which may do anything
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
    if isinstance(value, enum.Flag):
        return ["flag", *_name_of(kind), value.value]
    if isinstance(value, enum.Enum):
        return ["enum", *_name_of(kind), value.name]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["named", *_name_of(kind), [write(one, deep) for one in value]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ["data", *_name_of(kind), {name: write(one, deep) for name, one in _fields_of(value).items()}]
    if isinstance(value, PurePath):
        return ["path", str(value)]
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
        return _write_array(numpy, value)
    raise CannotTravel(f"a {kind.__module__}.{kind.__qualname__}")


def _fields_of(value: Any) -> dict[str, Any]:
    """Give a dataclass's fields: all that it knows."""
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    beside = getattr(value, "__dict__", {}).keys() - found.keys()
    if beside or isinstance(value, list | dict | set | tuple | str | bytes | int | float):
        what = f"with {', '.join(sorted(beside))} beside its fields" if beside else "that is more than its fields"
        raise CannotTravel(f"a {type(value).__module__}.{type(value).__qualname__} {what}")
    return found


def _write_array(numpy: Any, value: Any) -> Any:
    written = io.BytesIO()
    try:
        numpy.save(written, value, allow_pickle=False)
    except ValueError as error:
        raise CannotTravel(f"a numpy array of {value.dtype}: {error}") from error
    return ["array" if isinstance(value, numpy.ndarray) else "scalar", to_text(written.getvalue())]


def _read_array(text: str) -> Any:
    """Make an array of exactly the bytes that came: what its head says costs nothing."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise CannotTravel("an array of numpy's, which is not imported here: import it")
    came = io.BytesIO(to_bytes(text))
    form = numpy.lib.format
    version = form.read_magic(came)
    if version not in ((1, 0), (2, 0)):
        raise CannotTravel(f"an array written as version {version}: names of fields have plain letters only")
    head = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, is_fortran, dtype = head(came)
    content = came.read()
    if dtype.hasobject or dtype.itemsize < 1 or math.prod(shape) * dtype.itemsize != len(content):
        raise CannotTravel(f"an array of {dtype} and shape {_short(shape)} in {len(content)} bytes")
    return numpy.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C").copy()


def _read_error(module: str, name: str, args: list[Any], state: Mapping[str, Any], text: str, deep: int) -> Any:
    """Make an exception, by the ``__new__`` of the first of Python's own that it is. One that ends programs or
    iterations, that is of ours, or is not known here is told by its name."""
    found = [read(one, deep) for one in args]
    try:
        kind = _class(module, name, Exception)
    except CannotTravel:
        kind = None
    if kind is None or _means_more(kind) or not _is_sound(kind, found):
        return RemoteException(f"{module}.{name}: {text}", "import the module that it is of, to have it as it was")
    found = [_in_words(one) for one in found]
    base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    error = kind(*found) if kind is base else base.__new__(kind, *found)
    if kind is not base:
        BaseException.args.__set__(error, tuple(found))  # type: ignore[attr-defined]
    told = {key: _in_words(read(one, deep)) for key, one in state.items() if not key.startswith("__")}
    vars(error).update(told)
    return error


def _means_more(kind: type) -> bool:
    """Whether it ends iterations, or says something of the program that has it."""
    packages = {one.__module__.partition(".")[0] for one in kind.__mro__}
    return issubclass(kind, StopIteration | StopAsyncIteration) or not _OF_PROGRAMS.isdisjoint(packages)


def _is_sound(kind: type, found: list[Any]) -> bool:
    """Whether Python can show what it is made of: where these two point to nowhere, it does not look."""
    if issubclass(kind, SyntaxError):
        return len(found) == 1 and isinstance(found[0], str)
    if not issubclass(kind, UnicodeError) or kind is UnicodeError:
        return True
    if len(found) != _UNICODE_PARTS or not isinstance(found[1], str | bytes):
        return False
    _, text, start, end, _ = found
    return type(start) is int and type(end) is int and 0 <= start < end <= len(text)


def _in_words(value: Any) -> Any:
    """Give text as a terminal may be shown it; anything else as it is."""
    if not isinstance(value, str):
        return value
    short = value[:_MOST_WORDS]
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in short)


def _read_enum(module: str, name: str, member: str, deep: int) -> Any:
    return _class(module, name, enum.Enum)[member]


def _read_flag(module: str, name: str, value: int, deep: int) -> Any:
    kind = _class(module, name, enum.Flag)
    if type(value) is not int or value & ~kind._flag_mask_:
        raise CannotTravel(f"a flag of {_short(value)}")
    return kind(value)


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
        found = object.__getattribute__(found, "__dict__").get(part) if found is not None else None
    if not isinstance(found, type) or not issubclass(found, base) or _name_of(found) != (module, name):
        raise CannotTravel(f"{module}.{name} is no such class here: define it in a module, and import that")
    if hasattr(found, "__del__"):
        raise CannotTravel(f"{module}.{name} has a __del__, which would run")
    return found


def _name_of(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _keys(items: Iterable[Any]) -> list[Any]:
    """Give what is to be keys, or members of a set, where that makes a table of use."""
    found = list(items)
    if not all(map(_is_cheap_key, found)):
        raise CannotTravel(f"a key that is a number of more than {_MOST_KEY_BITS} bits")
    if found and max(Counter(map(hash, found)).values()) > _MOST_ALIKE:
        raise CannotTravel(f"more than {_MOST_ALIKE} of {len(found)} keys have one hash")
    return found


def _is_cheap_key(key: Any) -> bool:
    if isinstance(key, tuple | frozenset):
        return all(map(_is_cheap_key, key))
    if isinstance(key, Fraction):
        key = key.numerator | key.denominator
    if isinstance(key, decimal.Decimal):
        return len(key.as_tuple().digits) <= _MOST_KEY_BITS // 4 and abs(key.adjusted()) <= _MOST_KEY_BITS // 4
    return not isinstance(key, int) or key.bit_length() <= _MOST_KEY_BITS


def _short(value: Any) -> str:
    return repr(value)[:100]


_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": lambda items: set(_keys(items)),
    "frozenset": lambda items: frozenset(_keys(items)),
}
_READERS: dict[str, Callable[..., Any]] = {
    **{kind.tag: kind.read for kind in PLAIN.values()},
    "int": read_int,
    "float": float.fromhex,
    "path": PurePosixPath,
    "array": _read_array,
    "scalar": lambda text: _read_array(text)[()],
}
_OBJECTS: dict[str, Callable[..., Any]] = {
    "error": _read_error,
    "enum": _read_enum,
    "flag": _read_flag,
    "named": _read_named,
    "data": _read_data,
}
