"""The staging directory on a real disk: adapters that share it, one that was killed, and room that is promised."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.errors import NoStagingRoom
from adapters.storage.accounting import UNKNOWN_S, UNREPORTED, AccountingGroups
from adapters.storage.staging import LEFT_BEHIND_S, Staging, key_of
from broker import reserve
from tests.broker.polling import until
from tests.unit.disks import fill, small_disk

MIB = 1 << 20


async def own(sender: str) -> str:
    return sender


def name(number: int) -> str:
    return f"{number:040x}"


async def test_what_one_adapter_promised_is_not_there_for_another_ones_senders(tmp_path: Path) -> None:
    """Two adapters of a machine once looked at the same free space and promised it twice."""
    with small_disk(tmp_path / "disk", 100 * MIB) as disk:
        first, second = (Staging(disk / "staging", own, most_bytes=400 * MIB) for _ in range(2))

        async with first.room_for("vm-a", name(1), 60 * MIB):
            with pytest.raises(NoStagingRoom, match=rf"no room for {40 * MIB} bytes of vm-b.* {60 * MIB} are promised"):
                async with second.room_for("vm-b", name(2), 40 * MIB):
                    pass
        async with second.room_for("vm-b", name(2), 40 * MIB):
            pass

        assert list((disk / "staging").iterdir()) == []


async def test_what_a_killed_adapter_had_promised_is_free_again(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom adapters.storage.staging import Staging\n"
        "async def own(sender): return sender\n"
        "async def main():\n"
        "    async with Staging(Path(sys.argv[1]), own, most_bytes=4 << 20).room_for('vm-a', 'a' * 40, 1 << 20):\n"
        "        print('there', flush=True)\n        await asyncio.sleep(3600)\n"
        "asyncio.run(main())"
    )
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", script, tmp_path, stdout=subprocess.PIPE)
    staging = Staging(tmp_path, own, most_bytes=4 * MIB)
    try:
        assert other.stdout is not None
        assert await other.stdout.readline() == b"there\n"
        with pytest.raises(NoStagingRoom):
            async with staging.room_for("vm-a", name(2), 1):
                pass
    finally:
        other.kill()
        await other.wait()

    async with staging.room_for("vm-a", name(2), 1):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_of_two_that_come_at_once_not_both_get_what_there_is_for_one(tmp_path: Path) -> None:
    stagings = [Staging(tmp_path, own, most_bytes=40 * MIB) for _ in range(2)]
    held: list[int] = []

    async def ask(number: int) -> None:
        async with stagings[number % 2].room_for("vm-a", name(number), 6 * MIB):
            held.append(number)
            assert len(held) <= 1
            await asyncio.sleep(0.05)
            held.remove(number)

    results = await asyncio.gather(*(ask(number) for number in range(6)), return_exceptions=True)

    assert {type(result) for result in results} <= {NoStagingRoom, type(None)}
    await ask(6)  # alone it has what there is
    assert list(tmp_path.iterdir()) == []


async def test_what_is_left_goes_for_what_comes_and_what_is_held_stays(tmp_path: Path) -> None:
    staging = Staging(tmp_path, own, most_bytes=16 * MIB)
    for number in (1, 2):
        part = tmp_path / f"in-vm-a.{name(number)}.part"
        part.write_bytes(os.urandom(2 * MIB))
        part.with_suffix(".mark").write_bytes(b"2")
        os.utime(part, (number, number))

    async with staging.room_for("vm-a", name(3), 2 * MIB) as place:
        left = sorted(path.name for path in tmp_path.glob("*.part"))
        assert not place.partial.exists()

    assert left == [f"in-vm-a.{name(2)}.part"]
    assert not (tmp_path / f"in-vm-a.{name(1)}.mark").exists()


async def test_a_cancelled_promise_is_none(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def slow(sender: str) -> str:
        asked.set()
        await asyncio.sleep(3600)
        return sender

    async def hold() -> None:
        async with Staging(tmp_path, slow, most_bytes=MIB).room_for("vm-a", name(1), MIB):
            pass

    task = asyncio.ensure_future(hold())
    await asked.wait()
    assert len(list(tmp_path.iterdir())) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert list(tmp_path.iterdir()) == []


def test_a_write_that_would_touch_the_reserve_is_one_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40 * MIB) as disk:
        kept = reserve.look(disk).reserve
        fill(disk, leaving=kept + MIB)

        reserve.demand(disk, MIB // 2)
        words = rf"No space left on device for {2 * MIB} bytes: \d+ are free.*{kept} stay free"
        with pytest.raises(OSError, match=words):
            reserve.demand(disk, 2 * MIB)


async def test_whose_kin_a_vm_is_is_asked_once_and_vms_that_no_host_reported_are_one_kin() -> None:
    asked: list[str] = []
    hosts = {"vm-a": "host-1"}
    now = [0.0]

    async def host_of(vm: str) -> str:
        asked.append(vm)
        return hosts.get(vm, "")

    groups = AccountingGroups(host_of, lambda: now[0])
    assert groups.known("vm-a") == UNREPORTED
    await until(lambda: groups.known("vm-a") == "host-1")
    found = [await groups.find(name) for name in ("vm-a", "vm-b", "vm-c", "console-x", "site-y")]

    assert found == ["host-1", UNREPORTED, UNREPORTED, "console-x", "site-y"]
    assert asked == ["vm-a", "vm-b", "vm-c"]
    hosts["vm-b"] = "host-1"
    now[0] += UNKNOWN_S
    assert await groups.find("vm-b") == "host-1"
    await groups.close()


def test_what_is_left_behind_is_bounded_in_bytes(tmp_path: Path) -> None:
    staging = Staging(tmp_path, own, most_bytes=8 * MIB)
    for number in range(4):
        part = tmp_path / f"in-vm-{number}.{name(number)}.part"
        part.write_bytes(os.urandom(2 * MIB))
        os.utime(part, (0, time.time() - 100 + number))

    staging.remove_left_behind()

    assert sorted(path.name[:7] for path in tmp_path.iterdir()) == ["in-vm-2", "in-vm-3"]


@pytest.mark.parametrize("age_s", [0.0, 2 * LEFT_BEHIND_S], ids=["large", "old"])
async def test_a_copy_on_its_way_out_is_not_taken_for_one_that_was_left_behind(tmp_path: Path, age_s: float) -> None:
    staging = Staging(tmp_path, own, most_bytes=8 * MIB)
    broken_off = tmp_path / f"in-vm-b.{name(2)}.part"
    broken_off.write_bytes(os.urandom(3 * MIB))

    async with staging.room_for("vm-a", name(1), 6 * MIB, way="out") as place:
        place.whole.write_bytes(os.urandom(6 * MIB))
        os.utime(place.whole, (0, time.time() - age_s))
        staging.remove_left_behind()
        assert place.whole.stat().st_size == 6 * MIB
        assert broken_off.exists()

    staging.remove_left_behind()
    assert not place.whole.exists()


async def test_what_waits_to_go_on_is_not_left_behind(tmp_path: Path) -> None:
    keys = [key_of("vm-a", name(number)) for number in (1, 2)]
    staging = Staging(tmp_path, own, most_bytes=16 * MIB, waiting=lambda: {keys[0]})
    for number, key in enumerate(keys):
        part = tmp_path / f"{key}.part"
        part.write_bytes(os.urandom(2 * MIB))
        os.utime(part, (number, number))

    async with staging.room_for("vm-a", name(3), 2 * MIB):
        left = [path.name for path in tmp_path.glob("*.part")]
    staging.remove_left_behind({keys[0]})

    assert left == [f"{keys[0]}.part"], "the younger one broke off, the older one waits"
    assert [path.name for path in tmp_path.iterdir()] == left


async def test_what_waits_counts_to_its_senders_share(tmp_path: Path) -> None:
    key = key_of("vm-a", name(1))
    staging = Staging(tmp_path, own, most_bytes=16 * MIB, waiting=lambda: {key})
    (tmp_path / f"{key}.part").write_bytes(os.urandom(3 * MIB))

    with pytest.raises(NoStagingRoom, match="unfinished files of vm-a"):
        async with staging.room_for("vm-a", name(2), 2 * MIB):
            pass
    async with staging.room_for("vm-a", name(1), 4 * MIB):
        pass
