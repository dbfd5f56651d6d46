"""A large input goes to a host once, whatever its VMs and jobs are: all that is published to them counted in bytes."""

from __future__ import annotations

import hashlib
import json
import threading
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
from volcloud.demo.material import provide_wheel

VMS, JOBS = 2, 8
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
        while True:
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


@pytest.fixture
async def wheel() -> Path:
    return await provide_wheel(cache_directory() / "wheels")


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


async def test_eight_jobs_in_two_vms_with_one_large_input_cost_its_bytes_once(
    system: System, client: Client, tmp_path: Path, wheel: Path
) -> None:
    tap = Tap(system, keys_of(client))
    size = wheel.stat().st_size

    with tap.counting():
        submit(client, tmp_path, "eight", wheel)
        rows = client.jobs.wait("eight", timeout_s=240)

    published = {key: count for key, count in tap.bytes_by_key.items() if count}
    print(f"{size} bytes of input; published {published}")
    assert [row.state for row in rows] == [JobState.DONE] * JOBS
    assert {client.jobs.show(f"eight.{index}").attempts[-1].vm for index in range(1, JOBS + 1)} == {
        row.status.vm for row in client.vms.list()
    }
    assert size > 25_000_000
    assert size < sum(tap.bytes_by_key.values()) < 1.1 * size
    assert size <= metric(system, "storage_adapter-1", "vc_transfer_bytes_total", direction="out") < 1.1 * size
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for index in (1, JOBS):
        client.jobs.fetch(f"eight.{index}", tmp_path / str(index))
        assert (tmp_path / str(index) / "sum").read_text().split()[0] == digest
        assert int((tmp_path / str(index) / "size").read_text()) == size
    until(lambda: inputs_of(client).served == VMS, "the host has told what it served", 30)
    facts = inputs_of(client)
    assert (facts.fetched_bytes, facts.served_bytes, facts.fetches, facts.files) == (size, VMS * size, 1, 1)
