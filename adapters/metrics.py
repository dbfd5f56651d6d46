"""What an adapter tells Prometheus: throughput, waits, run times, leases, failures.

One registry a process, handed in; every label combination exists from the start, so that the first event shows as an
increase. Labels are bounded words: never the id of a host, a VM or a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from schemas.ledger import JobState

_M = TypeVar("_M", Counter, Gauge, Histogram)

#: 5 ms to 6 h in 20 buckets, seconds.
BUCKETS = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600,
)  # fmt: skip

OUTCOMES = ("done", "failed", "cancelled", "lost")
REASONS = ("undecodable", "foreign_key", "not_taken", "failed", "stale_generation", "superseded", "flood")
NOT_DELIVERED = ("Unroutable", "Refused", "Disconnected", "Forbidden")
DIRECTIONS = ("in", "out")
VM_STATES = ("running", "paused", "saved", "poweredoff", "aborted", "other")
STEPS = ("stage_in", "run", "validate", "stage_out")


class Metrics:
    """The metrics of one adapter."""

    def __init__(self, adapter: str, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._adapter = adapter
        self.jobs = self._counter("vc_jobs_total", "Attempts that ended, by outcome", "outcome", OUTCOMES)
        self.submitted = self._counter("vc_jobs_submitted_total", "Jobs accepted into the ledger")
        self.assigned = self._counter("vc_jobs_assigned_total", "Assignments made")
        self.refusals = self._counter("vc_messages_refused_total", "Messages that had no effect", "reason", REASONS)
        self.undelivered = self._counter(
            "vc_publish_failed_total", "Publishes that the broker did not confirm", "reason", NOT_DELIVERED
        )
        self.outbox_again = self._counter("vc_outbox_republished_total", "Messages published again from the outbox")
        self.transfer = self._counter("vc_transfer_bytes_total", "Bytes of files moved", "direction", DIRECTIONS)
        self.confirm_seconds = self._histogram("vc_publish_confirm_seconds", "Publish to confirm of a batch")
        self.wait_seconds = self._histogram("vc_job_wait_seconds", "Submission to assignment")
        self.duration_seconds = self._histogram("vc_job_duration_seconds", "Assignment to the end of a done job")
        self.step_seconds = self._histogram("vc_job_step_seconds", "Time of one step of an attempt", "step", STEPS)
        self.states = self._gauge("vc_jobs_in_state", "Jobs in the ledger", "state", tuple(JobState))
        self.requests = self._gauge("vc_job_requests_waiting", "Free job slots that wait for a job")
        self.oldest_wait = self._gauge("vc_job_oldest_wait_seconds", "Age of the oldest waiting job")
        self.leases = self._gauge("vc_leases_active", "Attempts that hold a lease")
        self.outbox = self._gauge("vc_outbox_messages", "Messages committed and not confirmed")
        self.hosts = self._gauge("vc_hosts", "Hosts that the centre knows", "state", ("present", "absent"))
        self.vms = self._gauge("vc_vms", "VMs that the centre knows", "state", VM_STATES)
        self.connected = self._gauge("vc_broker_connected", "1 while the broker link is up")
        self.reconnects = self._gauge("vc_broker_links", "Links made to the broker since the start")
        self._gauge("vc_build_info", "Always 1", "version", ("0.1.0",)).labels(adapter, "0.1.0").set(1)

    def serve(self, port: int, address: str) -> None:
        """Answer scrapes at ``address:port``; nothing for port 0. Raises OSError when the port is taken."""
        if port:
            start_http_server(port, address, self._registry)

    def note(self, counts: Mapping[str, int], observations: Iterable[tuple[str, float]]) -> None:
        """Take over what a transaction counted and observed, by the names that the ledger gives."""
        for name, number in counts.items():
            self._count(name, number)
        for name, seconds in observations:
            self._observe(name, seconds)

    def refused(self, reason: str) -> None:
        """Count a message that had no effect."""
        self.refusals.labels(self._adapter, reason if reason in REASONS else "failed").inc()

    def not_delivered(self, reason: str) -> None:
        """Count a publish that was not confirmed."""
        self.undelivered.labels(self._adapter, reason if reason in NOT_DELIVERED else "Disconnected").inc()

    def moved(self, direction: str, size: int) -> None:
        """Count bytes of a file."""
        self.transfer.labels(self._adapter, direction).inc(size)

    def set_state(self, gauge: Gauge, values: Mapping[str, int], known: Iterable[str]) -> None:
        """Set a gauge for every known state; what is not known counts as ``other`` where there is one."""
        words = list(known)
        for word in words:
            gauge.labels(self._adapter, word).set(values.get(word, 0))
        rest = sum(number for word, number in values.items() if word not in words)
        if "other" in words:
            gauge.labels(self._adapter, "other").set(rest)

    def _count(self, name: str, number: int) -> None:
        if name == "jobs_submitted":
            self.submitted.inc(number)
        elif name == "jobs_assigned":
            self.assigned.inc(number)
        elif name.startswith("attempts_") and name[9:] in OUTCOMES:
            self.jobs.labels(self._adapter, name[9:]).inc(number)
        elif name in REASONS:
            self.refusals.labels(self._adapter, name).inc(number)

    def _observe(self, name: str, seconds: float) -> None:
        if name == "wait":
            self.wait_seconds.observe(seconds)
        elif name == "duration":
            self.duration_seconds.observe(seconds)
        elif name in STEPS:
            self.step_seconds.labels(self._adapter, name).observe(seconds)

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
        words = list(values)
        if not words:
            return metric.labels(self._adapter)
        for word in words:
            metric.labels(self._adapter, word)
        return metric
