"""The adapters of a system's sources: which processes there are, and what each is told of its source."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from volcloud.errors import BadInput

SOURCE_ADAPTER = "source_adapter"
#: The key of a source's table that says how many adapters it has, and how many it may have.
ADAPTERS, MOST_ADAPTERS = "adapters", 16
_GROUP = "volunteer_cloud.sources"


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
    """Raise BadInput for a kind that is not installed, and for adapters that are too many or of one name.

    What the kind itself is told its adapter looks at: no grid's package is loaded here.
    """
    kinds = {point.name for point in entry_points(group=_GROUP)}
    for name, table in sources.items():
        _check_kind(f"sources.{name}.kind", table.get("kind"), kinds)
        count = table.get(ADAPTERS, 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ADAPTERS:
            allowed = f"must be a number of 1 to {MOST_ADAPTERS}"
            raise BadInput(f"sources.{name}.{ADAPTERS} = {count!r}: {allowed}", "one adapter is enough for most grids")
    _check_names(sources)


def _check_kind(where: str, kind: Any, kinds: set[str]) -> None:
    if isinstance(kind, str) and kind in kinds:
        return
    said = "is missing" if kind is None else f"= {kind!r}"
    near = get_close_matches(kind, kinds, n=1) if isinstance(kind, str) else []
    advice = f"did you mean {near[0]!r}?" if near else f"it must be one that is installed: {', '.join(sorted(kinds))}"
    raise BadInput(f"{where} {said}: {advice}", "`pip install` the package of that grid, or choose another kind")


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
