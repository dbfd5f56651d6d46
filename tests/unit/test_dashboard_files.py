"""The files for Grafana and Prometheus: made from their source, complete, and naming only what exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.metrics import Metrics
from deploy.grafana.dashboard import PATH, render
from deploy.prometheus import config

PROMETHEUS = Path(config.__file__).parent
DASHBOARD = json.loads(PATH.read_bytes())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = (PROMETHEUS / "rules.yml").read_text()


def promtool(*words: str, cwd: Path = PROMETHEUS) -> str:
    """Run promtool and give what it says when it finds fault; empty when all is well."""
    if shutil.which("promtool") is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed (apt install prometheus)")
        pytest.skip("NO CHECKS BY PROMETHEUS: promtool is not installed (apt install prometheus)")
    done = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_dashboard_is_what_its_source_says() -> None:
    assert PATH.read_bytes() == render(), "run python -m deploy.grafana.dashboard"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_a_description_and_a_chosen_data_source(panel: dict[str, object]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]  # type: ignore[index]
    assert str(panel["description"]).endswith(".")
    for target in panel["targets"]:  # type: ignore[attr-defined]
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["expr"]
        assert target["legendFormat"]


def test_panels_have_titles_and_numbers_of_their_own_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_panels_and_alarms_name_only_metrics_that_adapters_have() -> None:
    registry = CollectorRegistry()
    Metrics("adapter-job-1", registry)
    known = {sample.name for family in registry.collect() for sample in family.samples}
    named = set(re.findall(r"\bvc_\w+", PATH.read_text() + RULES))

    assert named - known == set()


def test_every_metric_of_ours_is_shown() -> None:
    registry = CollectorRegistry()
    Metrics("adapter-job-1", registry)
    ours = {family.name for family in registry.collect() if family.name.startswith("vc_")}
    shown = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"\bvc_\w+", PATH.read_text())}

    assert ours - shown == {"vc_completions"}


def test_every_alarm_waits_says_how_bad_it_is_and_what_to_do() -> None:
    alarms = RULES.split("- alert: ")[1:]

    assert len(alarms) >= 5
    for alarm in alarms:
        for word in ("for: ", "severity: ", "summary: ", "description: "):
            assert word in alarm, f"{alarm.splitlines()[0]} has no {word}"


def test_every_alarm_fires_when_it_shall_and_not_otherwise() -> None:
    tests = (PROMETHEUS / "rules_test.yml").read_text()

    assert promtool("test", "rules", "rules_test.yml") == ""
    assert {name for name in re.findall(r"- alert: (\w+)", RULES) if f"alertname: {name}" not in tests} == set()


def test_the_scrape_configuration_is_sound(tmp_path: Path) -> None:
    text = config.render_config(
        job_adapters=["10.0.0.1:9101", "10.0.0.2:9101"], storage_adapters=["10.0.0.1:9102"], brokers=["10.0.0.3:15692"]
    )
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "rules.yml").write_text(RULES)

    assert promtool("check", "config", "prometheus.yml", cwd=tmp_path) == ""
    assert "$" not in text.replace("dollar", "")
