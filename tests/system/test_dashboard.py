"""Every query of the dashboard, run against a real Prometheus that scrapes a real run with failures."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from broker.connection import Connection
from broker.node import LOOPBACK
from broker.ports import free_ports
from broker.routes import up
from broker.rpc.caller import Caller
from deploy.grafana.dashboard import PATH
from deploy.prometheus.config import package_text, render_config
from schemas.codec import encode
from schemas.description import JobDescription, Output, Requirements
from schemas.ledger import JobCancel, JobsChanged, JobSubmit, JobVerdict
from schemas.vms import HostFacts, HostInventory, VmState, VmStatus
from tests.broker.conftest import require_rabbitmq
from tests.system.rig import Rig, counted
from tests.system.running import until

GUESTS = ("vm-a", "vm-b")
#: Size of the one output that is too large for a completion, bytes.
LARGE = 100_000

PANELS = {panel["title"]: panel for panel in json.loads(PATH.read_bytes())["panels"] if panel["type"] != "row"}
QUERIES = [
    pytest.param(target["expr"], id=f"{title} {target['refId']}")
    for title, panel in PANELS.items()
    for target in panel["targets"]
]

#: The run: 12 jobs end well, one of them with a large output; 3 fail; one asks for what no VM has; at last one runs on.
JOBS = (
    JobDescription(id="good", executable="/bin/sleep", arguments=["0.3"], array=11),
    JobDescription(
        id="large",
        executable="/bin/sh",
        arguments=["-c", f"sleep 0.3; head -c {LARGE} /dev/zero > out"],
        outputs=[Output(name="out")],
    ),
    JobDescription(id="bad", executable="/bin/sh", arguments=["-c", "exit 3"], array=3),
    JobDescription(id="huge", executable="/bin/true", requirements=Requirements(memory_mib=1 << 30)),
)
ENDLESS = JobDescription(id="endless", executable="/bin/sleep", arguments=["300"])
REFUSED = JobDescription(id="refused", executable="/bin/true", validation="no-such-input")
#: What the panels must show once that has happened: the panel, the labels of a series, its number.
KEY_PANELS: tuple[tuple[str, dict[str, str], float], ...] = (
    ("Jobs submitted", {}, 17),
    ("Jobs done", {}, 12),
    ("Jobs waiting", {}, 1),
    ("Jobs held", {}, 3),
    ("Attempts running", {}, 1),
    ("Attempts failed", {}, 3),
    ("VMs running", {}, 2),
    ("Dead letters", {}, 1),
    ("Jobs by state", {"state": "running"}, 1),
    ("Hosts", {"state": "present"}, 1),
    ("Broker link", {"adapter": "adapter-job-1"}, 1),
    ("Broker link", {"adapter": "adapter-store-1"}, 1),
    ("Consumers", {"queue": "vc.completions"}, 1),
)

Series = tuple[dict[str, str], list[float]]


class Prometheus:
    """A Prometheus of the rig that scrapes its adapters and its broker twice a second."""

    def __init__(self, rig: Rig, job_adapter: str, storage_adapter: str) -> None:
        (port,) = free_ports(LOOPBACK, [0])
        self._url = f"http://{LOOPBACK}:{port}/api/v1"
        brokers = [f"{LOOPBACK}:{rig.address.prometheus_port}"]
        config = rig.directory / "prometheus.yml"
        config.write_text(
            render_config(
                job_adapters=[job_adapter], storage_adapters=[storage_adapter], brokers=brokers, interval="500ms"
            )
        )
        config.with_name("rules.yml").write_text(package_text("rules.yml"))
        data = rig.directory / "prometheus"
        listen = f"--web.listen-address={LOOPBACK}:{port}"
        rig.spawn("prometheus", "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", listen)
        self.began = time.time()
        #: The moment at which queries are evaluated: once set to the past, answers do not change any more.
        self.at = self.began

    def now(self, expr: str) -> list[Series]:
        """Evaluate a query at ``at``."""
        return self._ask("query", self._substituted(expr), time=self.at)

    def over_the_run(self, expr: str) -> list[Series]:
        """Evaluate a query for each second of the run."""
        return self._ask("query_range", self._substituted(expr), start=self.began, end=self.at, step=1)

    def ask(self, path: str, **parameters: object) -> Any:
        """Call the API. Raises AssertionError with what it says of a query that it does not understand."""
        try:
            with urlopen(f"{self._url}/{path}?{urlencode(parameters)}", timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except HTTPError as error:
            if error.code == 503:  # it is still starting
                raise URLError(error.reason) from error
            raise AssertionError(error.read().decode()) from error

    def _substituted(self, expr: str) -> str:
        """Fill in what Grafana would."""
        window = f"{max(1, round(self.at - self.began))}s"
        return expr.replace("$adapter", ".*").replace("$__rate_interval", "5s").replace("$__range", window)

    def _ask(self, path: str, query: str, **times: object) -> list[Series]:
        found = self.ask(path, query=query, **times)["result"]
        return [(one["metric"], [float(v) for _, v in one.get("values") or [one["value"]]]) for one in found]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched the run to where nothing changes any more."""
    require_rabbitmq()
    _require_prometheus()
    with Rig(tmp_path_factory.mktemp("dashboard")) as rig:
        server = Prometheus(rig, rig.job_adapter(), rig.storage_adapter())
        try:
            _wait(lambda: _has_first_scrapes(server), lambda: "every target was scraped")
            for vm in GUESTS:
                rig.guest(vm)
            with _host(rig):
                asyncio.run(_run_jobs(rig))
                _wait(lambda: _is_settled(server), lambda: f"the key panels are right: {_wrong(server)}")
        except BaseException:
            print(rig.logs())
            raise
        yield server
        asyncio.run(_cancel(rig, "endless"))
        assert rig.strays() == []


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_returns_a_number(prometheus: Prometheus, expr: str) -> None:
    found = prometheus.over_the_run(expr)

    assert [value for _, values in found for value in values if not math.isnan(value)], f"no number: {found}"


@pytest.mark.parametrize(("title", "labels", "number"), KEY_PANELS)
def test_a_key_panel_shows_the_right_number(
    prometheus: Prometheus, title: str, labels: dict[str, str], number: float
) -> None:
    assert _shown(prometheus, title, labels) == [number]


def test_the_run_times_lie_where_the_payloads_slept(prometheus: Prometheus) -> None:
    median = PANELS["Run: the payload alone"]["targets"][0]["expr"].replace("$__rate_interval", "$__range")

    [(_, [seconds])] = prometheus.now(median)

    assert 0.2 < seconds <= 0.5


def test_the_bytes_of_the_large_output_are_counted_once(prometheus: Prometheus) -> None:
    found = prometheus.now('sum by (direction) (vc_transfer_bytes_total{adapter=~"$adapter"})')

    assert {labels["direction"]: value for labels, [value] in found} == {"in": LARGE, "out": 0}


def test_a_refusal_shows_under_its_reason(prometheus: Prometheus) -> None:
    (query,) = PANELS["Messages refused"]["targets"]

    found = prometheus.now(query["expr"].replace("$__rate_interval", "$__range"))

    assert {labels["reason"] for labels, [value] in found if value} == {"undecodable"}


def test_every_target_is_scraped_and_no_series_names_a_vm(prometheus: Prometheus) -> None:
    targets = prometheus.ask("targets")["activeTargets"]
    queues = prometheus.ask("label/queue/values")

    assert {t["labels"]["job"]: t["lastError"] for t in targets} == dict.fromkeys(
        ("job-adapter", "storage-adapter", "rabbitmq", "rabbitmq-queues"), ""
    )
    assert "vc.requests" in queues
    assert [name for name in queues if name.startswith(("vm.", "host.", "vc.replies."))] == []


def test_the_only_alarms_are_those_for_what_happened(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = prometheus.ask("rules")["groups"][0]["rules"]
        return found

    def raised() -> set[tuple[str, str | None]]:
        """Those that are pending as well, of which some are over with the next look: a host may just have come."""
        return {(rule["name"], alert["labels"].get("queue")) for rule in rules() for alert in rule["alerts"]}

    # The rig has no key manager, so nobody reads what guests say to it.
    happened = {("DeadLettersGrow", "vc.dead"), ("QueueWithoutConsumer", "vc.enrol"), ("JobsHeld", None)}
    until(lambda: raised() <= happened, "there are no alarms but those for what happened", 60)
    assert {rule["health"] for rule in rules()} <= {"ok", "unknown"}


def _require_prometheus() -> None:
    if shutil.which("prometheus"):
        return
    if os.environ.get("CI"):
        pytest.fail("prometheus is not installed (apt install prometheus)")
    pytest.skip("NO DASHBOARD TESTS: prometheus is not installed (apt install prometheus)")


def _has_first_scrapes(server: Prometheus) -> bool:
    server.at = time.time()
    try:
        return len(server.now("up == 1")) == 4 and len(server.now("vc_build_info")) == 2
    except URLError:
        return False


def _is_settled(server: Prometheus) -> bool:
    """Look at a moment of which every scrape has been stored; when all is right there, it stays the moment."""
    server.at = time.time() - 1
    return not _wrong(server)


def _wrong(server: Prometheus) -> list[str]:
    """Say which of the key panels do not show what they shall."""
    shown = [(title, labels, number, _shown(server, title, labels)) for title, labels, number in KEY_PANELS]
    return [f"{title} {labels}: {found}, not {number}" for title, labels, number, found in shown if found != [number]]


def _shown(server: Prometheus, title: str, labels: dict[str, str]) -> list[float]:
    found = server.now(PANELS[title]["targets"][0]["expr"])
    return [value for of, [value] in found if labels.items() <= of.items()]


async def _run_jobs(rig: Rig) -> None:
    async with rig.console() as console:
        await _send_garbage(rig)
        assert [await _submit(console, job) for job in JOBS] == [True] * len(JOBS)
        assert not await _submit(console, REFUSED)
        await counted(console, "good", lambda counts: counts.get("done") == 11)
        await counted(console, "large", lambda counts: counts.get("done") == 1)
        await counted(console, "bad", lambda counts: counts.get("held") == 3)
        # Last, since a job that waits at the same slot would wait for it.
        assert await _submit(console, ENDLESS)
        await counted(console, "endless", lambda counts: counts.get("running") == 1)


async def _submit(console: Caller, job: JobDescription) -> bool:
    return (await console.call_centre("submit", JobSubmit(job=job), JobVerdict)).accepted


@contextmanager
def _host(rig: Rig) -> Iterator[None]:
    """Be the VMs' host, which says with each beat that they run, for as long as the block lasts."""
    rig.mint("host-pc")
    is_over = threading.Event()
    beats = threading.Thread(target=lambda: asyncio.run(_report_vms(rig, is_over)), name="host", daemon=True)
    beats.start()
    try:
        yield
    finally:
        is_over.set()
        beats.join(30)


async def _report_vms(rig: Rig, is_over: threading.Event) -> None:
    facts = HostFacts(
        hostname="pc", platform="x86_64", cpus=2, memory_mib=1024, free_disk_mib=1024, hypervisor="process"
    )
    async with Connection(rig.mint("host-pc"), name="host-pc") as link:
        while not is_over.is_set():
            report = HostInventory(host=facts, vms=[_running(vm) for vm in GUESTS], at_ms=int(time.time() * 1000))
            await link.publish(*up("host-pc", "inventory"), encode(report), message_id=report.id)
            await asyncio.to_thread(is_over.wait, 0.5)


def _running(vm: str) -> VmStatus:
    return VmStatus(
        vm=vm,
        name=vm,
        state=VmState.RUNNING,
        generation=1,
        hypervisor="process",
        cpus=1,
        memory_mib=512,
        disk_mib=512,
    )


async def _send_garbage(rig: Rig) -> None:
    async with Connection(rig.mint("site-lyon"), name="site-lyon") as link:
        await link.publish(*up("site-lyon", "submit"), b"\xc1 is never msgpack", message_id="garbage")


async def _cancel(rig: Rig, job: str) -> None:
    async with rig.console() as console:
        await console.call_centre("call", JobCancel(job=job), JobsChanged)
        await counted(console, job, lambda counts: counts.get("cancelled") == 1)


def _wait(condition: Callable[[], bool], what: Callable[[], str], patience_s: float = 30.0) -> None:
    """Look four times a second. Raises TimeoutError saying what did not come true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {patience_s:.0f} s: {what()}")
        time.sleep(0.25)
