"""What is scraped is what runs now."""

from __future__ import annotations

from pathlib import Path

from volcloud.centre.layout import Layout
from volcloud.centre.plan import Plan, settle_names
from volcloud.centre.scraping import scrape_targets
from volcloud.centre.settings import settle


def up(data: Path, **changes: int) -> Layout:
    layout = Layout(data)
    layout.etc.mkdir(exist_ok=True)
    settle(layout.settings, {}, changes, lambda _: None)
    settle_names(Plan(data=str(data), **changes))  # type: ignore[arg-type]
    return layout


def test_an_adapter_that_is_no_longer_started_is_no_longer_scraped(tmp_path: Path) -> None:
    up(tmp_path, job_adapters=3, storage_adapters=2)
    before = scrape_targets(tmp_path)

    up(tmp_path, job_adapters=1, storage_adapters=1)
    after = scrape_targets(tmp_path)

    assert (len(before.job_adapters), len(before.storage_adapters)) == (3, 2)
    assert after.job_adapters == before.job_adapters[:1]
    assert after.storage_adapters == before.storage_adapters[:1]
