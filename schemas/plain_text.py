"""What strangers say, made harmless to show: text stays text, whatever it is shown on.

A host, a VM, a payload or a submitter chooses names, reasons and arguments. Escape sequences, line breaks, marks that
turn the direction of writing and characters that nobody sees are shown as Python would write them, ``\\x1b``. What a
person sees is then what there is: it moves no cursor, forges no line and hides nothing.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

#: Candidates for escaping; each is then judged by ``str.isprintable``, which knows Unicode's categories.
_SUSPECT = re.compile(r"[^\x20-\x7e]")
_LINE_ENDS = frozenset("\n\t")


def plain(text: str) -> str:
    """Give a text on one line, every character that does not print escaped. Idempotent."""
    return text if text.isprintable() else _SUSPECT.sub(_escaped, text)


def plain_lines(text: str) -> str:
    """As ``plain``, for texts that have lines: line breaks and tabs stay. Idempotent."""
    return text if text.isprintable() else _SUSPECT.sub(_escaped_within_lines, text)


def plain_all(value: T) -> T:
    """Give a value with every text in it made ``plain``, at any depth; bytes stay as they are."""
    return cast(T, _walked(value))


def plain_json(text: str) -> str:
    """Give JSON that says the same with nothing in it that does not print; line breaks are JSON's own and stay."""
    return _SUSPECT.sub(_as_json, text)


def _walked(value: Any) -> Any:
    if type(value) is str:
        return plain(value)
    if isinstance(value, msgspec.Struct):
        changes = {name: _walked(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **changes)
    if isinstance(value, dict):
        return {_walked(key): _walked(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([_walked(one) for one in value])
    return value


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else repr(character)[1:-1]


def _escaped_within_lines(found: re.Match[str]) -> str:
    return found[0] if found[0] in _LINE_ENDS else _escaped(found)


def _as_json(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() or character == "\n":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
