"""The adapters of a system's sources, and what is refused before any of them starts."""

from __future__ import annotations

from typing import Any

import pytest

from volcloud.centre.source_plan import check_sources, source_processes, source_table
from volcloud.errors import BadInput

SPOOL: dict[str, Any] = {"kind": "spool", "directory": "/srv/spool"}


def test_each_source_has_its_adapters_and_each_is_told_what_is_its_sources_own() -> None:
    sources = {"oslo": SPOOL | {"adapters": 2}, "lyon": SPOOL}
    check_sources(sources)

    assert source_processes(sources) == {
        "source_adapter-lyon": "lyon",
        "source_adapter-oslo": "oslo",
        "source_adapter-oslo-2": "oslo",
    }
    assert source_table(sources["oslo"]) == SPOOL


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({"lyon": {"kind": "dirak"}}, r"sources\.lyon\.kind = 'dirak': did you mean 'dirac'\?"),
        ({"lyon": {"kind": "carrier pigeon"}}, r"must be one that is installed: .*spool"),
        ({"lyon": {"directory": "/srv"}}, r"sources\.lyon\.kind is missing"),
        ({"lyon": {"kind": ["spool"]}}, r"sources\.lyon\.kind = \['spool'\]"),
        ({"lyon": SPOOL | {"adapters": 0}}, r"sources\.lyon\.adapters = 0: must be a number of 1 to 16"),
        ({"lyon": SPOOL | {"adapters": True}}, r"sources\.lyon\.adapters = True"),
        ({"lyon": SPOOL | {"adapters": "2"}}, r"sources\.lyon\.adapters = '2'"),
        ({"a": SPOOL | {"adapters": 2}, "a-2": SPOOL}, "an adapter of sources.a bears the name source_adapter-a-2"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(sources: dict[str, dict[str, Any]], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        check_sources(sources)
