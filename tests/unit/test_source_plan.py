"""The adapters of a system's sources, and what is refused before any of them starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.sources.adapter import run
from adapters.sources.config import SourceAdapterConfig
from broker.address import Address, write_address
from broker.daemon.config import read_config
from broker.errors import ConfigError
from schemas.endpoints import Endpoint
from volcloud.centre.plan import Plan, settle_names, write_configurations
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
        (
            {"lyon": SPOOL | {"beat_every_s": 0}},
            r"sources\.lyon\.beat_every_s = 0: must be a number of seconds above 0",
        ),
        ({"lyon": SPOOL | {"longest_pause_s": float("inf")}}, r"longest_pause_s = inf: must be .* at most 86,400"),
        ({"lyon": SPOOL | {"most_at_once": 1001}}, r"most_at_once = 1001: must be a whole number from 1 to 1,000"),
        ({"lyon": SPOOL | {"most_at_once": "9"}}, r"sources\.lyon\.most_at_once = '9'"),
        ({"lyon": SPOOL | {"grid_store": "/srv"}}, r"sources\.lyon\.grid_store = '/srv': must be a table"),
        (
            {"lyon": SPOOL | {"grid_store": {"kind": "locl"}}},
            r"sources\.lyon\.grid_store\.kind = 'locl': did you mean 'loc",
        ),
        ({"lyon": SPOOL | {"catalogue": {}}}, r"sources\.lyon\.catalogue\.kind is missing: it must be one .*: rucio"),
        ({"a": SPOOL | {"adapters": 2}, "a-2": SPOOL}, "an adapter of sources.a bears the name source_adapter-a-2"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(sources: dict[str, dict[str, Any]], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        check_sources(sources)


def settle(tmp_path: Path, **table: Any) -> SourceAdapterConfig:
    """Give what the adapter of a source with that table reads."""
    plan = Plan(data=str(tmp_path), hypervisor="process", sources={"lyon": SPOOL | table})
    (tmp_path / "etc").mkdir()
    names = settle_names(plan)
    write_configurations(plan, names, [])
    return read_config(plan.layout.config("source_adapter-lyon"), SourceAdapterConfig)


def test_what_a_sources_table_says_beside_its_kinds_settings_reaches_its_adapters(tmp_path: Path) -> None:
    store = {"kind": "local", "directory": "/srv/grid"}
    told = settle(tmp_path, most_at_once=7, beat_every_s=2, longest_pause_s=20.5, grid_store=store, adapters=2)

    assert (told.most_at_once, told.beat_every_s, told.longest_pause_s) == (7, 2.0, 20.5)
    assert (told.source, told.grid_store, told.catalogue) == (SPOOL, store, None)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"adapter": 2}, r"^sources\.lyon\.adapter: .* did you mean 'adapters'\?"),
        ({"catalog": {}}, r"^sources\.lyon\.catalog: .* did you mean 'catalogue'\?"),
        (
            {"wrong": 2},
            r"^sources\.lyon\.wrong: .*: it has kind, directory, silent_s, adapters, grid_store, catalogue,"
            " most_at_once, beat_every_s, longest_pause_s$",
        ),
        ({"directory": ""}, r"^sources\.lyon\.directory = '': must be"),
        ({"grid_store": {"kind": "local", "directry": "/"}}, r"^sources\.lyon\.grid_store\.directry: .* 'directory'\?"),
        ({"catalogue": {"kind": "rucio", "acount": "a"}}, r"^sources\.lyon\.catalogue\.acount: .* 'account'\?"),
    ],
)
async def test_an_adapter_names_the_place_where_people_have_written_it(
    tmp_path: Path, table: dict[str, Any], says: str
) -> None:
    config = settle(tmp_path, **({"directory": str(tmp_path / "spool")} | table))
    address = Address(endpoints=(Endpoint(host="127.0.0.1", port=1),), user="adapter-source-lyon", password="x")
    Path(config.credential).parent.mkdir()
    write_address(Path(config.credential), address)

    with pytest.raises(ConfigError, match=says):
        await run(config)
