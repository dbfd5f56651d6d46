"""Drivers by kind, ours and those that others install, each with settings of its own.

An entry point of the group ``volunteer_cloud.hypervisors`` bears the kind's name and leads to a ``Driver``. Their
settings are a tagged union that is open to more: the tag says which driver, and only that one is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from broker.errors import ConfigError
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import Hypervisor
from schemas.plain_text import plain
from schemas.wanted import explain

GROUP = "volunteer_cloud.hypervisors"

#: How far guests give way to what else runs on a host.
Niceness = Annotated[int, msgspec.Meta(ge=0, le=19)]


class DriverSettings(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of every driver's settings. The driver's own, ``tag="KIND"``, add its fields, each with a default."""


Settings = TypeVar("Settings", bound=DriverSettings)


class Driver(msgspec.Struct, Generic[Settings], frozen=True):
    """What an entry point leads to: a driver's settings, and how it is made of them."""

    settings: type[Settings]
    #: What the driver keeps of its VMs lies in the directory, which need not be there. Nothing happens before ``open``.
    make: Callable[[Settings, Path], Hypervisor]


def installed() -> dict[str, EntryPoint]:
    """Give the drivers that there are, by kind; none is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def make_driver(table: Mapping[str, Any], directory: Path, where: str) -> Hypervisor:
    """Make the driver that a table of settings names, set as it says; ``where`` is the table's place, for errors.

    Raises ConfigError that names field, value and what is allowed, and HypervisorError if it cannot be imported.
    """
    driver = _chosen(table, where)
    _refuse_unknown(table, driver.settings, where)
    try:
        settings = msgspec.convert(table, driver.settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}.{explain(str(error), driver.settings, table)}") from error
    return driver.make(settings, directory)


def _chosen(table: Mapping[str, Any], where: str) -> Driver[Any]:
    found, kind = installed(), table.get("kind")
    if not isinstance(kind, str) or kind not in found:
        said = f" = {_quoted(kind)}" if "kind" in table else " is missing"
        raise ConfigError(f"{where}.kind{said}: must be a driver that is installed: {', '.join(found)}")
    try:
        driver: Driver[Any] = found[kind].load()
    except Exception as error:  # whatever the import of somebody else's module raises
        raise HypervisorError(f"the driver {kind} cannot be imported: {type(error).__name__}: {error}") from error
    return driver


def _refuse_unknown(table: Mapping[str, Any], settings: type[DriverSettings], where: str) -> None:
    known = ["kind", *(field.encode_name for field in msgspec.structs.fields(settings))]
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            said = f"{where}.{plain(key)} = {_quoted(table[key])}"
            raise ConfigError(f"{said}: the driver {table['kind']} has no such setting: {advice}")


def _quoted(value: Any) -> str:
    return plain(repr(value))
