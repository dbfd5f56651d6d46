"""A configuration as TOML text. Knows what our configurations hold: scalars, lists of texts and tables, one table."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def render_toml(config: msgspec.Struct) -> str:
    """Render a configuration; what the reader gives back is equal to it."""
    fields: dict[str, Any] = msgspec.to_builtins(config)
    return "".join(f"{key} = {render_value(value)}\n" for key, value in fields.items() if value is not None)


def render_value(value: Any) -> str:
    """Render one value: a scalar, a list, a table of scalars."""
    if isinstance(value, dict):
        known = {key: item for key, item in value.items() if item is not None}
        return "{" + ", ".join(f"{_text(str(key))} = {render_value(item)}" for key, item in known.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(render_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return _text(str(value))


def _text(text: str) -> str:
    """JSON's strings are TOML's basic strings, but that DEL must be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
