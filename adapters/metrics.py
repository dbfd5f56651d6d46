"""What an adapter tells Prometheus: throughput, waits, run times, leases, failures.

One registry a process, handed in; every label combination exists from the start, so that the first event shows as an
increase. Labels are bounded words: never the id of a host, a VM or a job. Numbers about the whole ledger are the same
in every job adapter and 0 in a storage adapter: a query takes their maximum, never their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from schemas.events import EventKind
from schemas.ledger import FINAL, SETTLED, JobState

log = logging.getLogger(__name__)

_M = TypeVar("_M", Counter, Gauge, Histogram)

#: 5 ms to 6 h in 20 buckets, seconds.
BUCKETS = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600,
)  # fmt: skip

OUTCOMES = tuple(state for state in JobState if state in SETTLED)
#: States that the gauge shows: what has ended is history, which the counters tell.
OPEN_STATES = tuple(state for state in JobState if state not in FINAL)
#: How an attempt ends: said by its guest, or by the ledger when the guest has gone (lost, expired).
ATTEMPT_OUTCOMES = ("done", "failed", "cancelled", "lost", "returned", "expired")
#: Why a message had no effect.
REASONS = (
    *("undecodable", "foreign_key", "not_taken", "failed", "flood", "no_such_transfer", "too_many_kinds"),
    *("stale_generation", "stale_hello", "stale_inventory"),
    *("unknown_attempt", "foreign_attempt", "foreign_vm", "too_many_vms", "superseded", "cancelled", "dead_boot"),
)
NOT_DELIVERED = ("unroutable", "refused", "disconnected", "forbidden", "other")
VERDICTS = ("accepted", "refused")
DIRECTIONS = ("in", "out")
HOST_STATES = ("present", "late", "lost", "absent")
#: What a VM that exists may be; ``other`` is a word of a newer host agent.
VM_STATES = (
    *("running", "paused", "saved", "poweredoff", "aborted", "stuck", "unknown", "set_aside", "missing"),
    *("starting", "pausing", "saving", "restoring", "stopping", "lost", "other"),
)
STEPS = ("stage_in", "run", "validate", "stage_out")
#: What goes after its time, or by an order.
DELETED = ("jobs", "vms", "hosts", "events", "messages", "traces", "shapes", "offers", "outputs", "inputs")
#: What becomes of what a grid gives, and of telling it how a job ended.
GIVEN = ("submitted", "refused", "again", "lost")
TOLD = ("done", "failed", "held")
#: What becomes of a guest's request for work beside an assignment.
FATES = ("forgotten", "unblocked", "served", "on_its_way", "beyond")


class Target(NamedTuple):
    """Where a number of the ledger goes: an attribute of ``Metrics``, and its label's value if it has one."""

    metric: str
    word: str = ""


#: Counters by the names in ``Tx.counts``.
COUNTS: Mapping[str, Target] = {
    "jobs_submitted": Target("submitted"),
    "jobs_assigned": Target("assigned"),
    "jobs_requeued": Target("requeued"),
    "jobs_retried": Target("retried"),
    "completions": Target("completions"),
    "leases_renewed": Target("renewed"),
    "attempts_revived": Target("revived"),
    "vms_struck": Target("struck"),
    "requests_forgotten": Target("fates", "forgotten"),
    "requests_unblocked": Target("fates", "unblocked"),
    "request_served": Target("fates", "served"),
    "request_beyond": Target("fates", "beyond"),
    "assignment_on_its_way": Target("fates", "on_its_way"),
    "events_left_out": Target("events_left_out"),
    **{f"event_{kind}": Target("events", kind) for kind in EventKind},
    **{f"deleted_{word}": Target("deleted", word) for word in DELETED},
    **{f"given_{word}": Target("acquired", word) for word in GIVEN},
    **{f"told_{word}": Target("told", word) for word in TOLD},
    **{f"jobs_{word}": Target("jobs", word) for word in OUTCOMES},
    **{f"attempts_{word}": Target("attempts", word) for word in ATTEMPT_OUTCOMES},
    **{f"submissions_{word}": Target("submissions", word) for word in VERDICTS},
    **{word: Target("refusals", word) for word in REASONS},
}
#: Histograms by the names in ``Tx.observations``.
OBSERVATIONS: Mapping[str, Target] = {
    "wait": Target("wait_seconds"),
    "turnaround": Target("duration_seconds"),
    **{word: Target("step_seconds", word) for word in STEPS},
}


class _Reconnects:
    """Turns the connection's number of links into a counter, which Prometheus can take rates of."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 1

    def set(self, links: int) -> None:
        """Take the number of links made since the start; the first one is no reconnect."""
        self._counter.inc(max(0, links - self._seen))
        self._seen = max(links, self._seen)


class Metrics:
    """The metrics of one adapter. Any thread may write them."""

    def __init__(self, adapter: str, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._adapter = adapter
        self._words: dict[Counter | Gauge | Histogram, tuple[str, ...]] = {}
        self._make_counters()
        self._make_histograms()
        self._make_gauges()
        ProcessCollector(registry=registry)

    def _make_counters(self) -> None:
        make = self._counter
        self.jobs = make("vc_jobs_total", "Jobs that ended or are held, by outcome", "outcome", OUTCOMES)
        self.attempts = make("vc_attempts_total", "Attempts that ended, by outcome", "outcome", ATTEMPT_OUTCOMES)
        self.submitted = make("vc_jobs_submitted_total", "Jobs accepted into the ledger")
        self.assigned = make("vc_jobs_assigned_total", "Assignments made")
        self.requeued = make("vc_jobs_requeued_total", "Jobs that wait again after a failed or lost attempt")
        self.retried = make("vc_jobs_retried_total", "Jobs released by a person")
        self.submissions = make("vc_submissions_total", "Submissions answered, by verdict", "verdict", VERDICTS)
        self.completions = make("vc_completions_total", "Completions that counted, repeated ones included")
        self.renewed = make("vc_leases_renewed_total", "Leases renewed by beats")
        self.revived = make("vc_attempts_revived_total", "Attempts that came back after their lease")
        self.sweeps_failed = make("vc_sweeps_failed_total", "Sweeps that broke off, and were begun again")
        self.struck = make("vc_vms_struck_total", "VMs that lost a job, or failed what others finish")
        self.events = make("vc_events_total", "Events of VMs and hosts, by what happened", "event", tuple(EventKind))
        self.events_left_out = make("vc_events_left_out_total", "Events that hosts told beyond their share")
        self.fates = make("vc_job_requests_total", "Requests for work that led to no assignment", "fate", FATES)
        self.refusals = make("vc_messages_refused_total", "Messages that had no effect", "reason", REASONS)
        self.deleted = make("vc_deleted_total", "What was deleted after its time or by an order", "what", DELETED)
        self.undelivered = make(
            "vc_publish_failed_total", "Publishes that the broker did not confirm", "reason", NOT_DELIVERED
        )
        self.outbox_again = make("vc_outbox_republished_total", "Messages published again from the outbox")
        self.transfer = make("vc_transfer_bytes_total", "Bytes of whole files moved", "direction", DIRECTIONS)
        self.acquired = make("vc_source_jobs_total", "Jobs that the source gave, by what became of them", "fate", GIVEN)
        self.told = make("vc_source_deliveries_total", "Ends of jobs told to the source, by outcome", "outcome", TOLD)
        self.reconnects = _Reconnects(make("vc_broker_reconnects_total", "Links made after the first one"))

    def _make_histograms(self) -> None:
        make = self._histogram
        self.confirm_seconds = make("vc_publish_confirm_seconds", "Publish to confirm of a batch from the outbox")
        self.wait_seconds = make("vc_job_wait_seconds", "Submission to assignment")
        self.duration_seconds = make("vc_job_duration_seconds", "Submission to the end of a done job")
        self.step_seconds = make("vc_job_step_seconds", "Time of one step of a done attempt", "step", STEPS)

    def _make_gauges(self) -> None:
        make = self._gauge
        self.states = make("vc_jobs_in_state", "Jobs that have not ended", "state", OPEN_STATES)
        self.requests = make("vc_job_requests_waiting", "Requests for work that wait for a job")
        self.oldest_wait = make("vc_job_oldest_wait_seconds", "Age of the oldest waiting job")
        self.leases = make("vc_leases_active", "Attempts that hold a lease")
        self.outbox = make("vc_outbox_messages", "Messages committed and not confirmed")
        self.hosts = make("vc_hosts", "Hosts that the centre knows", "state", HOST_STATES)
        self.vms = make("vc_vms", "VMs that the centre knows and that exist", "state", VM_STATES)
        self.store_size = make("vc_store_size_bytes", "Size of the disk that the store is on; 0 = not known")
        self.store_free = make("vc_store_free_bytes", "What is free of the disk that the store is on")
        self.stored_outputs = make("vc_stored_outputs_bytes", "Outputs in the store, when it was last gone through")
        self.in_trouble = make("vc_source_trouble", "1 while something is wrong with the source")
        self.usable = make("vc_ledger_usable", "1 while the ledger's database does what is asked")
        self.connected = make("vc_broker_connected", "1 while the broker link is up")
        release = version("volunteer-cloud")
        make("vc_build_info", "Always 1", "version", (release,)).labels(self._adapter, release).set(1)

    def serve(self, port: int, address: str) -> None:
        """Answer scrapes at ``address:port``; nothing for port 0. Raises OSError naming both when it cannot."""
        if port:
            # Each counter would have a second series with the time at which it was made.
            disable_created_metrics()  # type: ignore[no-untyped-call]
            try:
                start_http_server(port, address, self._registry)
            except OSError as error:
                why = f"metrics_address = {address}, metrics_port = {port}: {error.strerror or error}"
                raise OSError(f"{why}; end who has it, or set another port (0 = no metrics)") from error

    def note(self, counts: Mapping[str, int], observations: Iterable[tuple[str, float]]) -> None:
        """Take over what a transaction counted and observed, by the names that the ledger gives."""
        for name, number in counts.items():
            counter = self._find(COUNTS, name)
            if counter is not None:
                counter.inc(number)
        for name, seconds in observations:
            histogram = self._find(OBSERVATIONS, name)
            if histogram is not None:
                histogram.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a message that had no effect; a reason that is not known counts as ``failed``."""
        self.refusals.labels(self._adapter, reason if reason in REASONS else "failed").inc()

    def sweep_failed(self) -> None:
        """Count a sweep that broke off."""
        self.sweeps_failed.inc()

    def not_delivered(self, reason: str) -> None:
        """Count a publish that was not confirmed, by the name of its error."""
        word = reason.lower()
        self.undelivered.labels(self._adapter, word if word in NOT_DELIVERED else "other").inc()

    def gone(self, what: str, count: int) -> None:
        """Count what was cleared away."""
        self.deleted.labels(self._adapter, what).inc(count)

    def moved(self, direction: str, size: int) -> None:
        """Count bytes of a file."""
        self.transfer.labels(self._adapter, direction).inc(size)

    def set_state(self, gauge: Gauge, values: Mapping[str, int], known: Iterable[str]) -> None:
        """Set a gauge for those of the known states that it shows.

        What it does not show counts as ``other`` where it has that word, but for VMs that do not exist any more.
        """
        words = [word for word in known if word in self._words[gauge]]
        for word in words:
            gauge.labels(self._adapter, word).set(values.get(word, 0))
        if "other" in words:
            rest = sum(number for word, number in values.items() if word not in (*words, "absent"))
            gauge.labels(self._adapter, "other").set(rest)

    def _find(self, table: Mapping[str, Target], name: str) -> Any:
        """Give the metric of one of the ledger's names; None for a name of a newer ledger, which the log tells."""
        target = table.get(name)
        if target is None:
            log.warning("no metric for this number", extra={"number": name})
            return None
        metric = getattr(self, target.metric)
        return metric.labels(self._adapter, target.word) if target.word else metric

    def _counter(self, name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Counter:
        return self._labelled(Counter(name, text, self._labels(label), registry=self._registry), values)

    def _gauge(self, name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Gauge:
        return self._labelled(Gauge(name, text, self._labels(label), registry=self._registry), values)

    def _histogram(self, name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Histogram:
        made = Histogram(name, text, self._labels(label), registry=self._registry, buckets=BUCKETS)
        return self._labelled(made, values)

    def _labels(self, label: str) -> list[str]:
        return ["adapter", label] if label else ["adapter"]

    def _labelled(self, metric: _M, values: Iterable[str]) -> _M:
        """Make every label combination; a metric of this adapter alone comes back bound to it."""
        words = tuple(values)
        if not words:
            return metric.labels(self._adapter)
        for word in words:
            metric.labels(self._adapter, word)
        self._words[metric] = words
        return metric
