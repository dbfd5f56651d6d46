"""A large input goes to a VM once: the physics array on one VM, all that was published to that VM counted in bytes."""

from __future__ import annotations

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
from tests.system.running import System, running
from tests.system.test_many_adapters import metric
from volcloud import Client
from volcloud.centre.guest_image import cache_directory
from volcloud.demo.material import KNOWN_MEAN, lay_out, provide_wheel
from volcloud.demo.place import DemoPlace

VM, JOBS = "worker-1", 4


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


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "1", "--cpus", "2") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


async def test_four_jobs_with_one_large_input_cost_its_bytes_once(
    system: System, client: Client, tmp_path: Path
) -> None:
    wheel = await provide_wheel(cache_directory() / "wheels")
    job = lay_out(DemoPlace(tmp_path), wheel)
    vm = queue_of(client.vms.list(VM)[0].status.vm)
    tap = Tap(system, [vm, f"{vm}.files"])

    with tap.counting():
        client.jobs.submit(job)
        rows = client.jobs.wait("z-decays", timeout_s=120)

    assert [row.state for row in rows] == [JobState.DONE] * JOBS
    size = wheel.stat().st_size
    print(f"{size} bytes of input; published {tap.bytes_by_key}")
    assert size > 25_000_000
    assert size < sum(tap.bytes_by_key.values()) < 1.1 * size
    assert size <= metric(system, "storage_adapter-1", "vc_transfer_bytes_total", direction="out") < 1.1 * size
    client.jobs.fetch("z-decays.1", tmp_path / "one")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["sum"] / result["events"] == KNOWN_MEAN
