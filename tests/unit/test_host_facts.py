"""What a host says of itself, and that agents and centres of other versions read each other."""

from __future__ import annotations

from pathlib import Path

import msgspec

from host_agent.config import HostConfig
from host_agent.facts import facts_of
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.operations import MOST_REMEMBERED, Operations
from host_agent.vm import Verb
from schemas.codec import decode, encode
from schemas.examples import example
from schemas.vms import MOST_OF_A_REASON, HostFacts, HostInventory, HostTaken, VmState, VmStatus


def vm(name: str, *, pid: int = 0, resident_bytes: int = 0) -> VmStatus:
    return VmStatus(
        vm=name,
        name=name,
        state=VmState.RUNNING,
        generation=1,
        hypervisor="fake",
        cpus=2,
        memory_mib=512,
        disk_mib=4096,
        pid=pid,
        resident_bytes=resident_bytes,
    )


def test_a_host_tells_its_machine_and_what_its_vms_take_of_it(tmp_path: Path) -> None:
    config = HostConfig(credential="", directory=str(tmp_path))
    vms = [vm("a", pid=7, resident_bytes=300 << 20), vm("b", pid=8, resident_bytes=100 << 20), vm("c")]

    facts = facts_of(config, FakeHypervisor(), vms)

    assert facts.taken == HostTaken(running=2, cpus=4, memory_mib=1024, resident_mib=400, disk_mib=3 * 4096)
    assert 0 < facts.memory_free_mib <= facts.memory_mib
    assert 0 <= facts.free_disk_mib <= facts.disk_mib
    assert facts.load >= 0
    assert facts.kernel
    assert facts.ports == ["snapshots", "statistics", "screenshots", "seed_medium"]
    assert facts.network == "host"
    assert facts.notes == "in memory, for tests: runs nothing"


def test_words_of_a_driver_that_are_too_long_keep_no_inventory_from_being_read(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    driver.capabilities = msgspec.structs.replace(driver.capabilities, notes="n" * 10_000)

    facts = facts_of(HostConfig(credential="", directory=str(tmp_path)), driver, [])
    read = decode(encode(HostInventory(host=facts, vms=[], at_ms=1)))

    assert isinstance(read, HostInventory)
    assert len(read.host.notes) == MOST_OF_A_REASON


def test_an_inventory_of_an_older_agent_is_read_and_an_older_centre_reads_a_newer_one() -> None:
    newer = msgspec.msgpack.decode(encode(example("host.inventory")))
    old_fields = ("hostname", "platform", "cpus", "memory_mib", "free_disk_mib", "hypervisor")
    older = {k: v for k, v in newer.items() if k != "gone"} | {
        "host": {name: newer["host"][name] for name in old_fields}
    }
    from_the_future = newer | {"host": newer["host"] | {"of_later": {"x": 1}}, "also": [1]}

    read = decode(msgspec.msgpack.encode(older))
    future = decode(msgspec.msgpack.encode(from_the_future))

    assert isinstance(read, HostInventory)
    assert (read.host.load, read.host.ports, read.host.taken, read.gone) == (0.0, [], None, [])
    assert future == example("host.inventory")
    assert isinstance(msgspec.msgpack.decode(msgspec.msgpack.encode(older["host"]), type=HostFacts), HostFacts)


async def test_who_did_the_last_thing_to_a_vm_is_remembered_of_so_many_vms() -> None:
    operations = Operations()

    async def nothing() -> None:
        return None

    await operations.run("vm-1", Verb.START, nothing, by="console-ada")
    await operations.run("vm-1", Verb.PAUSE, nothing)
    for number in range(MOST_REMEMBERED):
        operations.note(f"other-{number}", Verb.CREATE, "console-bob")
        operations.note("vm-1", Verb.STOP, "console-eve")

    assert operations.last()["vm-1"].verb == "stop"
    assert operations.last()["vm-1"].by == "console-eve"
    assert len(operations.last()) == MOST_REMEMBERED
