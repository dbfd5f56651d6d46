"""Free ports, and those of a guest: distinct, as they are wanted, others where somebody has them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from broker.ports import free_ports
from host_agent.hypervisors.contract import GuestPorts
from host_agent.hypervisors.qemu import ports
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.ports import at_ports, is_of_a_port, settle
from tests.contract.conftest import Rig

LOOPBACK = "127.0.0.1"


def test_free_ports_are_distinct_also_where_one_is_wanted_twice() -> None:
    (one,) = free_ports(LOOPBACK, [0])

    chosen = free_ports(LOOPBACK, [one, one, *[0] * 200])

    assert chosen[0] == one
    assert len(set(chosen)) == len(chosen)


def test_ports_are_those_that_are_wanted_then_those_of_before_then_others() -> None:
    wanted_one, before_one, taken_one = free_ports(LOOPBACK, [0, 0, 0])
    wanted = GuestPorts(forwards=((wanted_one, 80), (0, 81), (taken_one, 82)), screen=0)
    before = GuestPorts(forwards=((before_one, 80), (before_one, 81), (before_one, 82)), screen=before_one)

    with socket.create_server((LOOPBACK, taken_one)):
        settled = settle(wanted, before)

    host = [port for port, _ in settled.forwards]
    assert host[:2] == [wanted_one, before_one]
    assert [guest for _, guest in settled.forwards] == [80, 81, 82]
    assert len({*host, settled.screen, taken_one}) == 5
    assert settle(wanted, settled).forwards[2] == (taken_one, 82), "what is wanted comes back once it is free"
    assert settle(GuestPorts(), before) == GuestPorts()
    assert settle(wanted, GuestPorts()).forwards[0] == (wanted_one, 80), "a note of another shape is none"


def test_a_command_line_gets_its_ports_and_nothing_else_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = "user,id=net0,restrict=on,guestfwd=tcp:10.0.2.100:5672-cmd:sh a,,hostfwd=b,hostfwd=tcp:127.0.0.1:1-:80"
    arguments = ["qemu", "-netdev", network, "-vnc", "127.0.0.1:-5900", "-m", "1"]

    given = at_ports(arguments, GuestPorts(forwards=((2000, 80), (2001, 81)), screen=6000))

    forwarded = "hostfwd=tcp:127.0.0.1:2000-:80,hostfwd=tcp:127.0.0.1:2001-:81"
    assert given[2] == network.replace("hostfwd=tcp:127.0.0.1:1-:80", forwarded)
    assert given[3:] == ["-vnc", "127.0.0.1:100", "-m", "1"]
    assert at_ports(["qemu", "-netdev", "user,id=net0"], GuestPorts()) == ["qemu", "-netdev", "user,id=net0"]
    assert ports.forwarded(GuestPorts()) == ""


@pytest.mark.parametrize(
    ("words", "is_so"),
    [
        ("QEMU does not answer: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:2'", True),
        ("-vnc 127.0.0.1:1: Failed to bind socket: Address already in use", True),
        ("Failed to get shared write lock", False),
    ],
)
def test_what_qemu_says_of_a_port_is_known(words: str, is_so: bool) -> None:
    assert is_of_a_port(words) == is_so


@pytest.mark.parametrize("body", [b"", b'{"forwards":[[70000,80]]}', b'{"screen":"x"}', b"[]"])
def test_a_damaged_note_of_ports_is_none(tmp_path: Path, body: bytes) -> None:
    files = QemuFiles(tmp_path, "qemu")
    with files.making(Rig(tmp_path).spec("vm-a")):
        pass
    (tmp_path / "vm-a" / "ports.json").write_bytes(body)

    assert files.ports("vm-a") is None
