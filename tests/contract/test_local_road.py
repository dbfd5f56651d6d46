"""A host and its guest without any broker: the host's owner runs commands in the guest, whoever of the two restarts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.road.streams import short_path
from host_agent.front import visiting
from host_agent.guests import Guests
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.registry import VmRecord, VmRegistry
from host_agent.vm import Wish
from schemas.endpoints import Endpoint
from schemas.seed import Seed, encode_seed
from tests.contract.conftest import ProcessRig, eventually, roads_of
from tests.contract.test_host_agent_main import Program

VM = "vm-a-0123456789"
ME = "host-a"


class OurGuests(ProcessRig):
    """VMs in which our own guest agent runs."""

    def make(self) -> ProcessHypervisor:
        return ProcessHypervisor(self.directory)


def seed_of(vm: str, road: str) -> bytes:
    nowhere = (Endpoint("127.0.0.1", 9),)
    return encode_seed(
        Seed(
            vm=vm,
            name="worker-1",
            generation=1,
            endpoints=nowhere,
            vhost="/",
            login_user="once-a",
            login_password="x",
            road=road,
        )
    )


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
async def rig(program: Program) -> AsyncIterator[OurGuests]:
    """A guest that runs, and no broker anywhere."""
    made = OurGuests(program.directory / "host" / "hypervisor")
    driver = await made.open()
    await driver.create(made.spec(VM))
    await driver.start(VM, seed_of(VM, roads_of(driver).guest_end))
    registry = VmRegistry(program.directory / "host" / "vms.json")
    registry.put(VmRecord(vm=VM, name="worker-1", cpus=1, memory_mib=64, disk_mib=1024, wish=Wish.RUNNING))
    yield made
    await made.clean_up()


async def run_in(program: Program, *command: str, vm: str = "worker-1") -> subprocess.CompletedProcess[bytes]:
    """Have the owner run a command in his VM."""
    words = [sys.executable, "-m", "host_agent.main", "--config", str(program.config), "--vm", vm, "exec", "--"]
    return await asyncio.to_thread(subprocess.run, [*words, *command], capture_output=True, timeout=120, check=False)


async def door(program: Program) -> None:
    await eventually(lambda: (program.directory / "host" / "agent.sock").exists())


async def test_the_owner_runs_a_command_in_his_guest_though_there_is_no_broker(
    program: Program, rig: OurGuests
) -> None:
    program.start()
    await door(program)

    ran = await run_in(program, "sh", "-c", "echo out; echo err >&2; exit 7")

    assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"out\n", b"err\n")


async def test_output_comes_whole(program: Program, rig: OurGuests) -> None:
    program.start()
    await door(program)
    script = "import random, sys; r = random.Random(7); sys.stdout.buffer.write(r.randbytes(10_000_000))"

    ran = await run_in(program, sys.executable, "-c", script)

    assert len(ran.stdout) == 10_000_000
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(random.Random(7).randbytes(10_000_000)).digest()


async def test_two_owners_at_once_each_get_their_own(program: Program, rig: OurGuests) -> None:
    program.start()
    await door(program)

    both = await asyncio.gather(*(run_in(program, "sh", "-c", f"sleep 0.3; echo {word}") for word in ("one", "two")))

    assert [ran.stdout for ran in both] == [b"one\n", b"two\n"]


async def test_visitors_who_say_nothing_or_read_nothing_hold_up_nobody(program: Program, rig: OurGuests) -> None:
    program.start()
    await door(program)
    words = [sys.executable, "-m", "host_agent.main", "--config", str(program.config), "--vm", "worker-1"]
    unread, written = os.pipe()
    with socket.socket(socket.AF_UNIX) as silent, short_path(program.directory / "host" / "agent.sock") as name:
        silent.connect(name)
        reads_nothing = await asyncio.create_subprocess_exec(*words, "exec", "--", "yes", stdout=written)
        ran = await run_in(program, "echo", "served")
        reads_nothing.kill()
        await reads_nothing.wait()
    os.close(unread)
    os.close(written)

    assert (ran.returncode, ran.stdout) == (0, b"served\n")


async def test_it_goes_on_with_the_next_agent_on_either_side(program: Program, rig: OurGuests) -> None:
    first = program.start()
    await door(program)
    before = await run_in(program, "echo", "before")
    first.kill()
    await asyncio.to_thread(first.wait, 20)
    program.start()
    second = await run_in(program, "echo", "next host agent")
    driver = rig.drivers[-1]
    await driver.poweroff(VM)
    await driver.start(VM, seed_of(VM, roads_of(driver).guest_end))
    await eventually(lambda: (Path(driver.where(VM)) / "state" / "road.sock").exists())

    third = await run_in(program, "echo", "next guest agent")

    assert [ran.stdout for ran in (before, second, third)] == [b"before\n", b"next host agent\n", b"next guest agent\n"]


async def test_what_cannot_be_is_said_in_a_sentence(program: Program, rig: OurGuests) -> None:
    no_agent = await run_in(program, "true")
    agent = program.start()
    await door(program)
    no_vm = await run_in(program, "true", vm="worker-2")
    no_command = await run_in(program, "/no/such/command")
    agent.send_signal(signal.SIGTERM)

    assert no_agent.returncode == no_vm.returncode == no_command.returncode == 1
    assert b"no host agent answers" in no_agent.stderr
    assert b"--vm worker-2: no VM of" in no_vm.stderr
    assert b"it has: worker-1" in no_vm.stderr
    assert b"/no/such/command" in no_command.stderr
    assert b"Traceback" not in no_agent.stderr + no_vm.stderr + no_command.stderr


async def test_the_host_knows_how_its_guest_does(rig: OurGuests) -> None:
    guests = Guests(rig.drivers[-1], ME)
    await guests.look({VM})
    await eventually(lambda: guests.facts(VM) is not None)
    facts = guests.facts(VM)
    await guests.close()

    assert facts is not None
    assert (facts.is_connected, facts.cpus > 0, facts.memory_mib > 0, facts.holding) == (False, True, True, 0)


async def test_nobody_but_the_owner_comes_to_the_door(program: Program, rig: OurGuests) -> None:
    program.start()
    await door(program)
    doors = program.directory / "host" / "agent.sock", Path(rig.drivers[-1].where(VM)) / "state" / "road.sock"
    await eventually(doors[1].exists)

    assert [path.stat().st_mode & 0o777 for path in doors] == [0o600, 0o600]


async def test_a_visitor_reaches_the_vms_of_this_host_and_nothing_else(program: Program, rig: OurGuests) -> None:
    program.start()
    await door(program)
    elsewhere = [("vc.down", "vm.other"), ("vc.down", "host.b"), ("vc.up", "host-a.enrol"), ("", "")]
    async with visiting(program.directory / "host", ME) as road:
        saying = [road.publish(*there, b"x", message_id="m") for there in elsewhere]
        outcomes = await asyncio.gather(*saying, return_exceptions=True)

    assert [type(outcome).__name__ for outcome in outcomes] == ["Unroutable"] * 4


#: A guest that is not ours: it waits at the road's end, says hello as it should, then writes what it likes for ever.
STRANGER = """
import socket, sys
from broker.road.session import Session
kind = sys.argv[1]
server = socket.socket(socket.AF_UNIX)
server.bind("road.sock")
server.listen()
while True:
    stream, _ = server.accept()
    session = Session()
    try:
        stream.sendall(session.open())
        while not session.is_up:
            for event in session.receive(stream.recv(65536)):
                if isinstance(event, bytes):
                    stream.sendall(event)
        while True:
            stream.sendall({"garbage": bytes([192, 1, 192]), "endless": b"x" * 65536}.get(kind)
                           or session.say("vc.up", "vm-a-0123456789.report", "m", bytes(60_000))[1])
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("kind", "named"), [("garbage", "garbage"), ("endless", "a frame of more"), ("flood", "a flood")]
)
async def test_a_guest_that_attacks_is_cut_off_and_named_and_the_agent_stays_small(
    program: Program, kind: str, named: str
) -> None:
    rig = OurGuests(program.directory / "host" / "hypervisor")
    driver = await rig.open(ProcessHypervisor(rig.directory, [sys.executable, "-c", STRANGER, kind]))
    await driver.create(rig.spec(VM))
    await driver.start(VM, b"")
    registry = VmRegistry(program.directory / "host" / "vms.json")
    registry.put(VmRecord(vm=VM, name="worker-1", cpus=1, memory_mib=64, disk_mib=1024, wish=Wish.RUNNING))
    agent = program.start()
    said = ""
    assert agent.stderr is not None
    async with asyncio.timeout(60):
        while "local road cut off" not in said:
            said = await asyncio.to_thread(agent.stderr.readline)
    peak_kib = next(int(line.split()[1]) for line in status_of(agent.pid) if line.startswith("VmHWM"))
    await rig.clean_up()

    assert f"peer='{VM}'" in said
    assert named in said
    assert peak_kib < 60 << 10


def status_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()
