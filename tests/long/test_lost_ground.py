"""What a running system stands on taken away: its broker's port, its directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.node import LOOPBACK, read_node_address
from tests.system.running import until
from tests.system.test_centre import Place, placed

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


#: One VM with a kernel of its own, however slowly it boots here.
IN_QEMU = ("--hypervisor", "qemu", "--vms", "1")


@pytest.fixture
def place() -> Iterator[Place]:
    with placed(Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))) as one:
        yield one


def test_a_run_whose_directory_was_removed_ends_with_its_vms(place: Place) -> None:
    place.ready()
    assert place.supervisor is not None

    shutil.rmtree(place.data)

    assert place.supervisor.wait(90) == 0
    until(lambda: place.left() == [], "nothing is left", 10)


def test_a_broker_that_comes_back_on_another_port_is_told_to_everybody(place: Place) -> None:
    place.ready()
    before = read_node_address(place.layout.node).amqp_port
    os.kill(place.pid("broker"), signal.SIGKILL)
    taken = taken_soon(before)

    until(lambda: "telling everybody" in place.log(), "the new port is told", 60)
    until(lambda: "everybody knows port" in place.log(), "it is known", 60)
    place.runs_a_job("moved")
    taken.close()


def test_a_vm_that_was_saved_before_the_broker_moved_to_another_port_starts_and_takes_a_job(place: Place) -> None:
    """What its memory knows of the broker is a relay's address; the relay asks the host's credential."""
    place.ready(*IN_QEMU)
    place.runs_a_job("before")
    place.ok("vm", "savestate", "worker-1")
    before = read_node_address(place.layout.node).amqp_port
    place.ok("down")
    assert place.supervisor is not None
    place.supervisor.wait(60)

    with socket.create_server((LOOPBACK, before)):
        place.ready(*IN_QEMU)
        assert read_node_address(place.layout.node).amqp_port != before
        place.ok("vm", "start", "worker-1")

        place.runs_a_job("after")
        assert "worker-1" in place.ok("vm", "list")


def taken_soon(port: int) -> socket.socket:
    """Take a port as soon as whoever has it lets it go."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_server((LOOPBACK, port))
        except OSError:
            assert time.monotonic() < deadline, f"port {port} is not let go"
