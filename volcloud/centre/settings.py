"""What a system consists of: one file in its data directory, which people may edit, and which every start obeys.

What ``up`` is told for the first time is written there. What it is told later and contradicts the file is refused,
never ignored; ``--set`` changes the file, a line at a time, so that comments and edits survive.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from broker import durable
from broker.daemon.config import read_config
from broker.errors import ConfigError
from broker.masking import mask
from schemas.ids import SiteName
from schemas.plain_text import plain
from schemas.wanted import MOST_QUOTED, explain
from volcloud.centre.toml_text import render_value
from volcloud.errors import BadInput

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one system shall consist of."""

    hypervisor: Literal["qemu", "process"] = "qemu"
    vms: Annotated[int, msgspec.Meta(ge=0, le=64)] = 2
    memory_mib: Annotated[int, msgspec.Meta(ge=64)] = 768
    cpus: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    job_adapters: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    storage_adapters: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    sources: dict[SiteName, dict[str, Any]] = {}
    ledger: str = ""
    lease_s: Seconds = 90.0
    beat_s: Seconds = 15.0
    keep_days: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    keep_outputs_gib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    host_inputs_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 4096
    guest: dict[str, float] = {}
    limits: dict[Literal["cpus", "memory_mib", "disk_mib", "vms"], Annotated[int, msgspec.Meta(ge=0)]] = {}


#: What each means, in words; stands above its line in a new file.
TOLD = {
    "hypervisor": 'What runs the VMs: "qemu", or "process", which isolates nothing.',
    "vms": "How many VMs this host has.",
    "memory_mib": "Memory of each VM, MiB; a VM that exists keeps what it was made with.",
    "cpus": "Processors of each VM; one job each.",
    "job_adapters": "How many job adapters run.",
    "storage_adapters": "How many storage adapters run.",
    "sources": 'Grids that give jobs, by name: {lyon = {kind = "spool", directory = "/srv/spool"}}.',
    "ledger": "SQLAlchemy URL of the ledger; empty: SQLite in this directory.",
    "lease_s": "How long a job is a VM's that does not beat, seconds.",
    "beat_s": "How often hosts and guests beat, seconds.",
    "keep_days": "How long jobs are kept that have ended, with their outputs, days.",
    "keep_outputs_gib": "What all outputs may take, GiB; beyond it the jobs that ended first go. 0: no limit.",
    "host_inputs_mib": "What this host keeps of jobs' inputs for all its VMs, MiB; 0: each VM fetches for itself.",
    "guest": "Settings handed to guest agents.",
    "limits": "What this machine lets its VMs have together, as host_agent's `limits`.",
}
_HEAD = """\
# What this system consists of. `volcloud up` reads it at each start, and you may edit it;
# `volcloud up --set key=value` changes a line.
"""


def settle(
    path: Path, given: Mapping[str, Any], changes: Mapping[str, Any], check: Callable[[Settings], None]
) -> Settings:
    """Give the settings that hold from now on, and keep them in the file: what it says, with ``changes`` made.

    Without a file, ``given`` is what it begins with. Raises BadInput for a value that is wrong or contradicts the
    file, or what ``check`` raises; then the file is as it was.
    """
    _refuse({key: (changes[key], value) for key, value in given.items() if changes.get(key, value) != value}, "--set")
    if not path.exists():
        settings = _checked({**given, **changes})
        check(settings)
        durable.replace(path, _render(settings).encode())
        return settings
    stored = read_settings(path)
    wanted = _checked({**msgspec.to_builtins(stored), **changes})
    now: dict[str, Any] = msgspec.to_builtins(wanted)
    _refuse({key: (now[key], value) for key, value in given.items() if now[key] != value}, str(path))
    check(wanted)
    if wanted != stored:
        _change(path, stored, wanted)
    return wanted


def read_settings(path: Path) -> Settings:
    """Read what a system consists of. Raises BadInput naming file, key and value."""
    try:
        return read_config(path, Settings)
    except ConfigError as error:
        raise BadInput(str(error), f"mend {path}") from error


def read_changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read what ``--set`` was given: ``key=value``, the value as TOML has it, or a text. Raises BadInput."""
    found: dict[str, Any] = {}
    known = list(Settings.__struct_fields__)
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or key not in known:
            near = get_close_matches(key, known, n=1)
            advice = (
                f"did you mean {near[0]}?" if near and sign else f"must be KEY=VALUE, KEY one of {', '.join(known)}"
            )
            raise BadInput(f"--set {pair}: {advice}", "`volcloud up --help` tells what each means")
        found[key] = _value(key, value)
    return found


def differences(before: Settings, after: Settings) -> list[str]:
    """Say what is not as it was, a line each, without secrets."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    return [
        f"{key}: {_shown(old[key])} until now, {_shown(new[key])} from here on" for key in new if old[key] != new[key]
    ]


def told(settings: Settings) -> str:
    """Say what is set otherwise than by default, in one line, without secrets."""
    usual: dict[str, Any] = msgspec.to_builtins(Settings())
    own: dict[str, Any] = msgspec.to_builtins(settings)
    return ", ".join(f"{key} = {_shown(own[key])}" for key in usual if own[key] != usual[key]) or "all as by default"


def _refuse(conflicts: Mapping[str, tuple[Any, Any]], where: str) -> None:
    """Raise BadInput naming both values of each key: what ``where`` says, and what was given."""
    if not conflicts:
        return
    text = "; ".join(
        f"{key} is {_shown(old)} in {where}, {_shown(new)} was given" for key, (old, new) in conflicts.items()
    )
    sets = " ".join(f"--set {key}={_bare(new)}" for key, (_, new) in conflicts.items())
    raise BadInput(text, f"leave the option out to go on as it was, or change it with `volcloud up {mask(sets)}`")


def _checked(fields: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(fields, Settings)
    except msgspec.ValidationError as error:
        text = mask(explain(str(error), Settings, dict(fields)))
        raise BadInput(text, "`volcloud up --help` tells the limits") from error


def _change(path: Path, stored: Settings, wanted: Settings) -> None:
    """Change the lines that say otherwise, and no other. Raises BadInput when the file is written in another way."""
    old, new = msgspec.to_builtins(stored), msgspec.to_builtins(wanted)
    text = path.read_text()
    for key in [key for key in new if old[key] != new[key]]:
        text = _with_line(text, key, f"{key} = {render_value(new[key])}")
    try:
        is_right = msgspec.convert(tomllib.loads(text), Settings) == wanted
    except (tomllib.TOMLDecodeError, msgspec.ValidationError):
        is_right = False
    if not is_right:
        raise BadInput(f"{path} is written in a way that --set cannot change", "edit it, then `volcloud up`")
    durable.replace(path, text.encode())


def _with_line(text: str, key: str, line: str) -> str:
    """Put the line in the place of the key's, a comment behind it kept; before the first table where there is none."""
    pattern = re.compile(rf'^{key}\s*=(?:[^#\n"\']|"[^"\n]*"|\'[^\'\n]*\')*(?P<comment>#.*)?$', re.MULTILINE)
    table = re.search(r"^\[", text, re.MULTILINE)
    end = table.start() if table else len(text)
    found = pattern.search(text, 0, end)
    if found is None:
        return f"{text[:end].rstrip()}\n{line}\n\n{text[end:]}".rstrip() + "\n"
    comment = f"  {found['comment']}" if found["comment"] else ""
    return f"{text[: found.start()]}{line}{comment}{text[found.end() :]}"


def _render(settings: Settings) -> str:
    fields: dict[str, Any] = msgspec.to_builtins(settings)
    return _HEAD + "".join(f"\n# {TOLD[key]}\n{key} = {render_value(value)}\n" for key, value in fields.items())


def _value(key: str, text: str) -> Any:
    """Read a value; what is no TOML is a text, but for what begins as a table or a list does. Raises BadInput."""
    try:
        return tomllib.loads(f"{key}={text}")[key]
    except tomllib.TOMLDecodeError as error:
        if not text.lstrip().startswith(("{", "[")):
            return text
        said = plain(f"--set {key}={text}")
        shown = mask(said if len(said) <= MOST_QUOTED else f"{said[: MOST_QUOTED - 1]}…")
        raise BadInput(
            f"{shown}: not TOML: {error}, counted from {key}=",
            'write a table as {name = "text", other = 5}, each name once and texts in quotes',
        ) from error


def _shown(value: Any) -> str:
    return mask(render_value(value))


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else render_value(value)
