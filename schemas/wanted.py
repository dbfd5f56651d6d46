"""What a field wants, in words for a person: its name, the value that it was given, what is allowed, an example.

msgspec says "Expected `str` matching regex …"; who wrote ``id = "run.v1"`` needs to hear which characters an id may
hold. Everything here is made of the types themselves: a limit that changes there changes here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from schemas.plain_text import plain

#: Longest value that is quoted, characters.
MOST_QUOTED = 60

_PLACE = re.compile(r" - at `(key` in `)?\$(.*)`$")
#: Names that stand in a path as they are.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,60}")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
#: By the end of a field's name: its unit, and an example.
_UNITS = {"mib": ("MiB", '2048 or "2GB"'), "s": ("seconds", '90 or "90 min"')}


def explain(reason: str, kind: Any, value: Any = msgspec.UNSET) -> str:
    """Turn msgspec's words on what it could not convert to ``kind`` into ours; ``value`` is what it was given, where
    that is at hand. Words that are not about one field stay as they are."""
    place = _PLACE.search(reason)
    head = reason[: place.start()] if place else reason
    path = place[2].lstrip(".") if place else ""
    if "missing required field" in head:
        return _missing(head, path)
    if not place or not path or "unknown field" in head:
        return reason
    wanted = _at(_info(kind), path)
    if wanted is None:
        return reason
    if place[1]:
        named = _guilty(kind, value, path)
        return f"{path}: {'a name in it' if named is None else plain(repr(named))} must be {_key_words(wanted)}"
    if (in_table := path.partition("[...]"))[1] and (named := _guilty(kind, value, in_table[0])) is not None:
        path = f"{in_table[0]}.{named}{in_table[2]}" if _PLAIN.fullmatch(named) else path
    given = _given(value, path)
    said = f"{path} = {given}" if given else path
    needs_quotes = given and given[0] not in "'\"" and isinstance(_stripped(wanted), inspect.StrType)
    return f"{said}: must be {words_of(wanted, path)}{', in quotes' if needs_quotes else ''}"


@cache
def _info(kind: Any) -> inspect.Type:
    """Take a type apart, once: whoever sends what cannot be read may do so often."""
    return inspect.type_info(kind)


def words_of(kind: inspect.Type, name: str = "") -> str:
    """Say what a type allows; ``name`` tells the unit."""
    match kind:
        case inspect.Metadata():
            return _described(kind, name)
        case inspect.IntType() | inspect.FloatType():
            return _number(kind, name)
        case inspect.StrType():
            return _text(kind)
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType():
            return f"a list{_most(kind.max_length, 'items')}"
        case inspect.DictType():
            return f"a table of names and values{_most(kind.max_length, 'names')}"
        case inspect.StructType():
            return f"a table with the keys {', '.join(field.encode_name for field in kind.fields)}"
        case inspect.EnumType():
            return f"one of {', '.join(repr(str(member.value)) for member in kind.cls)}"
        case inspect.UnionType():
            return " or ".join(words_of(one, name) for one in kind.types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType():
            return f"one of {', '.join(map(repr, kind.values))}"
        case inspect.BytesType():
            return "bytes"
    return "something else"


def _number(kind: inspect.IntType | inspect.FloatType, name: str) -> str:
    what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    least, most = kind.ge, kind.le
    if least is not None and most is not None:
        bounds = f" from {_figure(least)} to {_figure(most)}"
    elif kind.gt is not None:
        bounds = f" above {_figure(kind.gt)}" + (f", at most {_figure(most)}" if most is not None else "")
    else:
        bounds = f", {_figure(least)} or more" if least is not None else ""
    end = name.rpartition("_")[2] if "_" in name and "_per_" not in name else ""
    unit, example = _UNITS.get(end, ("", _figure(max(least or 0, 2))))
    return f"{what}{f' of {unit}' if unit else ''}{bounds}, such as {example}"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _text(kind: inspect.StrType) -> str:
    least = ", not empty" if kind.min_length else ""
    return f"a text{_most(kind.max_length, 'characters')}{least}"


def _described(kind: inspect.Metadata, name: str) -> str:
    told = kind.extra_json_schema or {}
    if "description" not in told:
        return words_of(kind.type, name)
    examples = " or ".join(f'"{example}"' for example in told.get("examples", []))
    return f"{told['description']}{f', such as {examples}' if examples else ''}"


def _most(length: int | None, what: str) -> str:
    return f" of at most {length:,} {what}" if length is not None else ""


def _key_words(kind: inspect.Type) -> str:
    plain_kind = _stripped(kind)
    return words_of(plain_kind.key_type) if isinstance(plain_kind, inspect.DictType) else words_of(kind)


def _missing(head: str, path: str) -> str:
    field = re.search(r"`(.+?)`", head)
    name = field[1] if field else "a field"
    return f"{f'{path}.' if path else ''}{name} is missing: it is required"


def _at(kind: inspect.Type, path: str) -> inspect.Type | None:
    """Find the type of a field by its path; None where the path leads nowhere."""
    for name, _ in _steps(path):
        kind = _stripped(kind)
        if not name and isinstance(kind, inspect.ListType | inspect.DictType):
            kind = kind.item_type if isinstance(kind, inspect.ListType) else kind.value_type
            continue
        fields = kind.fields if isinstance(kind, inspect.StructType) else ()
        found = [field.type for field in fields if field.encode_name == name]
        if not found:
            return None
        kind = found[0]
    return kind


def _guilty(kind: Any, value: Any, path: str) -> str | None:
    """Find the first name in a struct's table, at a path of one step, that cannot be there with what it has."""
    table = value.get(path) if isinstance(value, Mapping) else None
    if not isinstance(table, Mapping) or not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
        return None
    types = [field.type for field in msgspec.structs.fields(kind) if field.encode_name == path]
    for name, item in table.items() if types else ():
        try:
            msgspec.convert({name: item}, types[0])
        except msgspec.ValidationError:
            return name if isinstance(name, str) else None
    return None


def _steps(path: str) -> list[tuple[str, str]]:
    """Take a path apart: a name, or empty and an index."""
    return _STEP.findall(path if path.startswith("[") else f".{path}")


def _stripped(kind: inspect.Type) -> inspect.Type:
    """Give the type itself, without its description and without what else it may be but None."""
    if isinstance(kind, inspect.Metadata):
        return _stripped(kind.type)
    if isinstance(kind, inspect.UnionType):
        types = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return _stripped(types[0]) if len(types) == 1 else kind
    return kind


def _given(value: Any, path: str) -> str:
    """Quote the value at a path; empty where it is not at hand."""
    for name, index in _steps(path):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and index.isdigit() and int(index) < len(value):
            value = value[int(index)]
        else:
            return ""
    text = plain(repr(value))
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 1]}…"
