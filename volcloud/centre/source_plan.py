"""The adapters of a system's sources: which processes there are, and what each is told of its source."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, get_type_hints

import msgspec

from adapters.sources.config import PACES, SourceAdapterConfig
from schemas.plain_text import plain
from schemas.wanted import words_of
from volcloud.errors import BadInput

SOURCE_ADAPTER = "source_adapter"
#: The key of a source's table that says how many adapters it has, and how many it may have.
ADAPTERS, MOST_ADAPTERS = "adapters", 16
#: The groups of entry points that kinds are of: of the source itself, and of the tables in its own.
_GROUP = "volunteer_cloud.sources"
_TABLES = {"grid_store": "volunteer_cloud.grid_stores", "catalogue": "volunteer_cloud.catalogues"}


def source_processes(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Name the processes, each with its source; the second of a source and those after it have a number."""
    return {
        f"{SOURCE_ADAPTER}-{name}" + (f"-{number}" if number > 1 else ""): name
        for name in sorted(sources)
        for number in range(1, int(sources[name].get(ADAPTERS, 1)) + 1)
    }


def source_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of a source's table is for its adapters."""
    return {key: value for key, value in table.items() if key != ADAPTERS}


def check_sources(sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise BadInput for a kind that is not installed, for adapters that are too many or of one name, and for a pace
    that cannot be.

    What the kind itself is told its adapter looks at: no grid's package is loaded here.
    """
    for name, table in sources.items():
        _check_kind(f"sources.{name}", table, _GROUP)
        for key, group in _TABLES.items():
            if key in table:
                _check_kind(f"sources.{name}.{key}", table[key], group)
        _check_paces(name, table)
        count = table.get(ADAPTERS, 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ADAPTERS:
            allowed = f"must be a number of 1 to {MOST_ADAPTERS}"
            raise BadInput(f"sources.{name}.{ADAPTERS} = {count!r}: {allowed}", "one adapter is enough for most grids")
    _check_names(sources)


def _check_kind(where: str, table: Any, group: str) -> None:
    if not isinstance(table, Mapping):
        allowed = 'must be a table of names and values, such as {kind = "local", directory = "/srv/grid"}'
        raise BadInput(f"{where} = {plain(repr(table))}: {allowed}", "say its kind, and what that kind needs")
    kind, kinds = table.get("kind"), {point.name for point in entry_points(group=group)}
    if isinstance(kind, str) and kind in kinds:
        return
    said = "is missing" if kind is None else f"= {kind!r}"
    near = get_close_matches(kind, kinds, n=1) if isinstance(kind, str) else []
    advice = f"did you mean {near[0]!r}?" if near else f"it must be one that is installed: {', '.join(sorted(kinds))}"
    raise BadInput(f"{where}.kind {said}: {advice}", "`pip install` the package of that grid, or choose another kind")


def _check_paces(name: str, table: Mapping[str, Any]) -> None:
    """Hold what a source's adapters are told of their pace to the bounds that they have for it themselves."""
    kinds = get_type_hints(SourceAdapterConfig, include_extras=True)
    for key in [key for key in PACES if key in table]:
        try:
            msgspec.convert(table[key], kinds[key])
        except msgspec.ValidationError as error:
            allowed = words_of(msgspec.inspect.type_info(kinds[key]), key)
            raise BadInput(
                f"sources.{name}.{key} = {plain(repr(table[key]))}: must be {allowed}",
                "leave it out to have what is usual",
            ) from error


def _check_names(sources: Mapping[str, Mapping[str, Any]]) -> None:
    taken: dict[str, str] = {}
    for name in sorted(sources):
        for process in source_processes({name: sources[name]}):
            if process in taken:
                raise BadInput(
                    f"sources.{name}: an adapter of sources.{taken[process]} bears the name {process} too",
                    "name one of the two sources otherwise",
                )
            taken[process] = name
