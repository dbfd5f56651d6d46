"""What the page on grids' stores has people put into ``settings.toml`` is taken there, and reaches the adapter."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from adapters.catalogues.rucio import RucioSettings
from adapters.grid_stores.xrootd import XrootdSettings
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.dirac.settings import DiracSettings
from broker.daemon.config import read_config
from volcloud.centre.plan import Plan, settle_names, write_configurations
from volcloud.centre.settings import Settings, settle
from volcloud.centre.source_plan import check_sources

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "grid-storage.md").read_text()


def check(settings: Settings) -> None:
    """As `volcloud up` does."""
    check_sources(settings.sources)


def test_the_tables_are_taken_where_the_page_says(tmp_path: Path) -> None:
    block = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    path = tmp_path / "settings.toml"
    settle(path, {"hypervisor": "process"}, {}, check)
    path.write_text(path.read_text().replace("sources = {}\n", "") + "\n" + block)

    plan = Plan(**msgspec.to_builtins(settle(path, {}, {}, check)), data=str(tmp_path))
    (tmp_path / "etc").mkdir()
    write_configurations(plan, settle_names(plan), [])
    told = read_config(plan.layout.config("source_adapter-lyon"), SourceAdapterConfig)

    assert told.beat_every_s == 10.0
    assert msgspec.convert(told.source, DiracSettings).site == "CLOUD.Volunteer.org"
    assert msgspec.convert(told.grid_store, XrootdSettings).proxy == "/etc/volunteer-cloud/x509up"
    assert msgspec.convert(told.catalogue, RucioSettings).rse == "EXAMPLE_LOCALGROUPDISK"
