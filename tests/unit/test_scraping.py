"""What is scraped is what runs now."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from broker import durable
from broker.node import LOOPBACK
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Plan, read_names, settle_names, settle_port, write_configurations
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


@pytest.mark.parametrize("full_for", ["job_adapter-1.toml", "names.json"])
def test_what_an_adapter_listens_on_is_what_is_scraped_also_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_for: str
) -> None:
    layout, plan = up(tmp_path), Plan(data=str(tmp_path))
    names = read_names(layout)
    write_configurations(plan, names, [])
    real = durable.replace

    def full(path: Path, content: bytes) -> None:
        if path.name == full_for:
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    with socket.create_server((LOOPBACK, names.metrics["job_adapter-1"])), monkeypatch.context() as context:
        context.setattr(durable, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            settle_port(plan, names, "job_adapter-1")
    settled = settle_port(plan, names, "job_adapter-1").metrics["job_adapter-1"]

    assert f"metrics_port = {settled}\n" in layout.config("job_adapter-1").read_text()
    assert scrape_targets(tmp_path).job_adapters == [f"{LOOPBACK}:{settled}"]
