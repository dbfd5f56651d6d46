"""A daemon's configuration: one TOML file into one frozen object, each mistake named with key, value and cure."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker.errors import ConfigError
from schemas.nearest import nearest
from schemas.wanted import explain

T = TypeVar("T", bound=msgspec.Struct)


def read_config(path: Path, kind: type[T]) -> T:
    """Read a daemon's configuration. Raises ConfigError."""
    import tomllib  # here: a guest reads none, and each has its own memory for what is loaded

    try:
        fields = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    _refuse_unknown(path, fields, kind)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {explain(str(error), kind, fields)}") from error


#: Tables of settings whose keys are not ours.
_OF_OTHERS = frozenset({"source", "grid_store", "catalogue"})
_OF_THE_LOG = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def show_config(config: msgspec.Struct) -> dict[str, Any]:
    """Give a configuration for the log: no secret is in one, credentials are named by their files.

    A setting whose name the log has for itself is told with a stroke at its end.
    """
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return {f"{key}_" if key in _OF_THE_LOG else key: _shown(key, value) for key, value in plain.items()}


def _shown(key: str, value: Any) -> Any:
    """Of a part that others may have written, which may have a secret in its settings, name what is set alone."""
    if key in _OF_OTHERS and isinstance(value, dict):
        return {"kind": value.get("kind"), "set": sorted(map(str, value))}
    return value


def _refuse_unknown(path: Path, fields: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    known = [f.encode_name for f in msgspec.structs.fields(kind)]
    for key in fields:
        if key not in known:
            near = nearest(key, known, cutoff=0.6)
            advice = f"did you mean {near!r}?" if near else f"allowed are {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {key!r}: {advice}")
