"""What an adapter's registry holds: every series from the start, every number of the ledger under a name."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.ledger.attempts import AttemptState
from adapters.metrics import BUCKETS, COUNTS, OBSERVATIONS, OPEN_STATES, VM_STATES, Metrics
from schemas.jobs import Outcome, Phase
from schemas.ledger import JobState
from schemas.vms import VmState

LEDGER = Path(__file__).parents[2] / "adapters" / "ledger"
#: Labels beside the adapter's name, each of a few words.
LABELS = {"event", "outcome", "verdict", "fate", "reason", "direction", "state", "step", "version", "what", "le"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics("adapter-job-1", registry)


def value_of(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"adapter": "adapter-job-1", **labels})


def series_of(registry: CollectorRegistry) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}


def test_every_series_exists_before_the_first_event(registry: CollectorRegistry, metrics: Metrics) -> None:
    before = series_of(registry)

    metrics.note(dict.fromkeys(COUNTS, 1), [(name, 0.1) for name in OBSERVATIONS])
    metrics.set_state(metrics.states, {"running": 1}, tuple(JobState))
    metrics.set_state(metrics.vms, {"running": 1}, VM_STATES)
    metrics.set_state(metrics.hosts, {"present": 1}, ("present", "absent"))
    for error in ("Unroutable", "Refused", "Disconnected", "Forbidden", "NotDelivered"):
        metrics.not_delivered(error)
    metrics.refused("flood")
    metrics.moved("in", 5)

    assert series_of(registry) == before


def test_each_name_counts_one_series_and_none_counts_twice(registry: CollectorRegistry, metrics: Metrics) -> None:
    for name in COUNTS:
        before = _counters(registry)

        metrics.note({name: 3}, [])

        after = _counters(registry)
        assert [after[key] - before[key] for key in after if after[key] != before[key]] == [3], name
    assert len(set(COUNTS.values())) == len(COUNTS)


def test_every_name_that_the_ledger_counts_has_a_metric() -> None:
    source = "\n".join(path.read_text() for path in LEDGER.glob("*.py"))
    literal = set(re.findall(r'counts\["([a-z_]+)"\]', source))
    chosen = set(re.findall(r'counts\[(?:\w+ or )?f?"([a-z_]+)"(?: if .* else f?"([a-z_]+).*)?\]', source))
    chosen = {word for words in chosen for word in words if word and not word.endswith("_")}
    refusals = set(re.findall(r'(?:BeatVerdict\(stop=|return )"([a-z]+_attempt|superseded|cancelled)"', source))

    assert {"jobs_submitted", "jobs_assigned", "leases_renewed"} <= literal
    assert {"jobs_requeued", "submissions_accepted", "submissions_refused", "completions"} <= chosen
    assert {"foreign_attempt", "superseded", "cancelled"} <= refusals
    assert (literal | chosen | refusals) - set(COUNTS) == set()


def test_every_end_of_a_job_and_of_an_attempt_has_a_metric() -> None:
    ends = {state for state in JobState if state not in {*Phase, JobState.SUBMITTED}}

    assert {f"attempts_{word}" for word in (*AttemptState, *Outcome)} <= set(COUNTS)
    assert {f"jobs_{word}" for word in ends} <= set(COUNTS)


def test_every_name_that_the_ledger_observes_has_a_histogram() -> None:
    source = "\n".join(path.read_text() for path in LEDGER.glob("*.py"))
    lists = "\n".join(re.findall(r"observations \+= \[(.*?)\]\n", source, flags=re.DOTALL))
    names = set(re.findall(r'\("([a-z_]+)", ', lists))

    assert {"wait", "run", "turnaround"} <= names
    assert names <= set(OBSERVATIONS)


def test_a_name_that_nobody_knows_is_said_in_the_log(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        metrics.note({"invented": 1}, [("invented_too", 1.0)])

    assert [record.__dict__["number"] for record in caplog.records] == ["invented", "invented_too"]


def test_labels_are_words_and_never_ids(registry: CollectorRegistry, metrics: Metrics) -> None:
    labels = {name for _, pairs in series_of(registry) for name, _ in pairs}

    assert labels <= LABELS | {"adapter"}
    assert len(series_of(registry)) < 400


def test_histograms_reach_from_5_ms_to_6_h_in_20_buckets() -> None:
    assert (BUCKETS[0], BUCKETS[-1], len(BUCKETS)) == (0.005, 6 * 3600, 20)
    assert list(BUCKETS) == sorted(BUCKETS)


def test_a_port_that_cannot_be_had_is_named_with_its_setting(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(
            OSError, match=f"metrics_address = 127.0.0.1, metrics_port = {port}: Address already in use"
        ):
            metrics.serve(port, "127.0.0.1")


def test_jobs_that_have_ended_are_not_shown_as_none(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.set_state(metrics.states, {"held": 2}, tuple(JobState))

    assert value_of(registry, "vc_jobs_in_state", state="held") == 2
    assert value_of(registry, "vc_jobs_in_state", state="submitted") == 0
    assert value_of(registry, "vc_jobs_in_state", state="done") is None
    assert {*OPEN_STATES, "done", "cancelled"} == set(JobState)


def test_vms_that_are_gone_are_not_counted_and_new_words_are_other(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    metrics.set_state(metrics.vms, {"running": 2, "absent": 9, "teleporting": 1}, VM_STATES)

    assert value_of(registry, "vc_vms", state="running") == 2
    assert value_of(registry, "vc_vms", state="other") == 1
    assert {*VM_STATES} == {*VmState, "lost", "other"} - {"absent"}


def test_links_after_the_first_are_reconnects(registry: CollectorRegistry, metrics: Metrics) -> None:
    for links in (0, 1, 1, 2, 4, 4):
        metrics.reconnects.set(links)

    assert value_of(registry, "vc_broker_reconnects_total") == 3


def test_an_unknown_reason_counts_as_failed(registry: CollectorRegistry, metrics: Metrics) -> None:
    metrics.refused("vm-1f3a said something odd")

    assert value_of(registry, "vc_messages_refused_total", reason="failed") == 1


def _counters(registry: CollectorRegistry) -> dict[object, float]:
    samples = [sample for family in registry.collect() if family.type == "counter" for sample in family.samples]
    return {(s.name, *s.labels.values()): s.value for s in samples if s.name.startswith("vc_")}
