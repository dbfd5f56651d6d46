"""A large input goes to a host once, whatever its VMs and jobs are: all that is published to them counted in bytes."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.entities import administrator
from broker.node import read_node_address
from broker.routes import DOWN, queue_of
from schemas.ledger import JobState
from schemas.vms import InputFacts
from tests.system.running import System, running, until
from tests.system.test_many_adapters import metric
from volcloud import Client
from volcloud.centre.guest_image import cache_directory
from volcloud.demo.material import KNOWN_MEAN, lay_out, provide_wheel
from volcloud.demo.place import DemoPlace

pytestmark = pytest.mark.timeout(400)

VMS, JOBS = 2, 8
#: What is under way when a count ends comes within this, seconds.
UNDER_WAY_S = 2.0
#: Takes its time, so that one VM does not run all of them before the other has begun.
LOOK = "sha256sum data > sum; stat -c %s data > size; sleep 1"


class Tap:
    """Counts what is published to some keys of ``vc.down``, by a queue of its own beside the receiver's."""

    def __init__(self, system: System, keys: list[str]) -> None:
        node = read_node_address(system.layout.node)
        self._connection = administrator(node.administration)
        self._keys = keys
        self._ended = threading.Event()
        self.bytes_by_key = dict.fromkeys(keys, 0)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count while the block runs, and what is on its way at its end."""
        with self._connection as connection, connection.channel() as channel:
            queue = channel.queue_declare("", exclusive=True, durable=False, auto_delete=True).queue
            for key in self._keys:
                channel.queue_bind(queue, DOWN, key)
            channel.basic_qos(0, 50, False)
            channel.basic_consume(queue, callback=self._count)
            thread = threading.Thread(target=self._drain, daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._ended.set()
                thread.join(30)

    def _count(self, message: Any) -> None:
        self.bytes_by_key[message.delivery_info["routing_key"]] += len(message.body)
        message.channel.basic_ack(message.delivery_tag)

    def _drain(self) -> None:
        until_s = math.inf
        while time.monotonic() < until_s:
            if self._ended.is_set() and until_s == math.inf:
                until_s = time.monotonic() + UNDER_WAY_S  # there are always beats: silence never comes
            try:
                self._connection.drain_events(timeout=0.5)
            except TimeoutError:
                if self._ended.is_set():
                    return


@pytest.fixture(scope="module", params=["process", pytest.param("qemu", marks=pytest.mark.qemu)])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    with running("--hypervisor", request.param, "--vms", str(VMS), "--cpus", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input that ends in the midst of a sector."""
    path = tmp_path_factory.mktemp("data") / "data"
    path.write_bytes(random.Random(29).randbytes(29_000_001))
    return path


def keys_of(client: Client) -> list[str]:
    """Name all queues of the host and its VMs, once these are there."""
    until(lambda: [row.agent_ready for row in client.vms.list()] == [True] * VMS, "the guests are ready", 180)
    rows = client.vms.list()
    queues = [queue_of(name) for name in {rows[0].host, *(row.status.vm for row in rows)}]
    return [key for queue in queues for key in (queue, f"{queue}.files")]


def submit(client: Client, directory: Path, name: str, data: Path, *, script: str = LOOK, array: int = JOBS) -> None:
    """Submit jobs that read a file."""
    outputs = ", ".join(f'{{ name = "{one}" }}' for one in ("sum", "size"))
    lines = [
        f'id = "{name}"\nexecutable = "/bin/sh"\narguments = ["-c", {json.dumps(script)}]\narray = {array}',
        f'inputs = [{{ name = "data", path = "{data}" }}]\noutputs = [{outputs}]',
    ]
    file = directory / f"{name}.toml"
    file.write_text("\n".join(lines))
    client.jobs.submit(file)


def inputs_of(client: Client) -> InputFacts:
    """What the host says that it keeps and has served."""
    facts = client.hosts.list()[0].facts.inputs
    assert facts is not None
    return facts


async def test_four_jobs_with_one_large_input_cost_its_bytes_once(
    system: System, client: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["system"] == "qemu":
        pytest.skip("the demo generates its decays in QEMU")
    wheel = await provide_wheel(cache_directory() / "wheels")
    job = lay_out(DemoPlace(tmp_path), wheel)
    tap = Tap(system, keys_of(client))
    size = wheel.stat().st_size

    with tap.counting():
        client.jobs.submit(job)
        rows = client.jobs.wait("z-decays", timeout_s=120)

    assert [row.state for row in rows] == [JobState.DONE] * 4
    assert size > 25_000_000
    assert size < sum(tap.bytes_by_key.values()) < 1.1 * size
    assert size <= metric(system, "storage_adapter-1", "vc_transfer_bytes_total", direction="out") < 1.1 * size
    client.jobs.fetch("z-decays.1", tmp_path / "one")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["sum"] / result["events"] == KNOWN_MEAN


async def test_eight_jobs_in_two_vms_with_one_large_input_cost_its_bytes_once(
    system: System, client: Client, tmp_path: Path, data: Path
) -> None:
    tap = Tap(system, keys_of(client))
    before = inputs_of(client)
    size = data.stat().st_size

    with tap.counting():
        submit(client, tmp_path, "eight", data)
        rows = client.jobs.wait("eight", timeout_s=240)

    print(f"{size} bytes of input; published { ({key: count for key, count in tap.bytes_by_key.items() if count}) }")
    assert [row.state for row in rows] == [JobState.DONE] * JOBS
    ran_in = {client.jobs.show(f"eight.{index}").attempts[-1].vm for index in range(1, JOBS + 1)}
    assert ran_in == {row.status.vm for row in client.vms.list()}
    assert size < sum(tap.bytes_by_key.values()) < 1.1 * size
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    for index in (1, JOBS):
        client.jobs.fetch(f"eight.{index}", tmp_path / str(index))
        assert (tmp_path / str(index) / "sum").read_text().split()[0] == digest
        assert int((tmp_path / str(index) / "size").read_text()) == size
    until(lambda: inputs_of(client).served == before.served + VMS, "the host has told what it served", 30)
    facts = inputs_of(client)
    assert facts.fetched_bytes - before.fetched_bytes == size
    assert facts.served_bytes - before.served_bytes == VMS * size
    assert facts.fetches == before.fetches + 1


async def test_a_host_that_hangs_holds_no_job_up(system: System, client: Client, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(random.Random(7).randbytes(3_000_000))
    before = metric(system, "storage_adapter-1", "vc_transfer_bytes_total", direction="out")

    system.freeze("host_agent")
    try:
        submit(client, tmp_path, "hangs", other, array=1)
        rows = client.jobs.wait("hangs", timeout_s=120)
    finally:
        system.thaw("host_agent")

    assert [row.state for row in rows] == [JobState.DONE]
    assert metric(system, "storage_adapter-1", "vc_transfer_bytes_total", direction="out") >= before + 3_000_000


#: What a payload would see of others if it could: the drive, to read and write, and what agent and host keep of files.
PRY = """
exec 2>/dev/null
state=$(cd ../../.. && pwd)
for place in /dev/sr0 /dev/vda; do
    (exec 3<$place) && echo reads $place
    (exec 3<>$place) && echo writes $place
    mknod $place.own b 11 0 && echo makes $place
done
for place in $state/inputs $state/host-inputs /var/lib/volunteer-cloud/inputs; do
    ls $place/* && echo lists $place
done
echo x >> data && echo changes its input
echo looked
"""


async def test_a_payload_finds_neither_the_medium_nor_what_others_have_read(
    system: System, client: Client, tmp_path: Path, data: Path
) -> None:
    submit(client, tmp_path, "pries", data, script=f"({PRY}) > sum; echo > size", array=1)
    rows = client.jobs.wait("pries", timeout_s=120)

    assert [row.state for row in rows] == [JobState.DONE]
    client.jobs.fetch("pries.1", tmp_path / "pried")
    assert (tmp_path / "pried" / "sum").read_text() == "looked\n"
