"""Looking into a VM from outside, driver by driver: its counters, its screen, what it prints."""

from __future__ import annotations

import signal
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from host_agent.errors import HypervisorError, Unsupported
from host_agent.hypervisors.contract import COUNTERS_S, Hypervisor, Screenshots, Statistics, VmCounted
from host_agent.hypervisors.detached import send_signal
from host_agent.hypervisors.kept_boots import ask
from tests.contract.conftest import QemuRig, Rig, snapshots_of
from tests.contract.test_hypervisors import SEED, running

#: A boot until the guest's agent speaks takes 8 s under emulation, and many times that on a busy machine.
BOOT_S = 300
pytestmark = pytest.mark.timeout(400)

Eventually = Callable[..., Awaitable[None]]


def statistics_of(driver: Hypervisor) -> Statistics:
    assert driver.capabilities.statistics is not None
    return driver.capabilities.statistics


def screenshots_of(driver: Hypervisor) -> Screenshots:
    if driver.capabilities.screenshots is None:
        pytest.skip(f"{driver.name} has no screen, and says so")
    return driver.capabilities.screenshots


def log_of(driver: Hypervisor) -> Path:
    if driver.capabilities.serial_log is None:
        pytest.skip(f"{driver.name} keeps no log, and says so")
    return driver.capabilities.serial_log.file("vm-a")


async def counted(driver: Hypervisor) -> VmCounted:
    return await statistics_of(driver).counters("vm-a")


async def test_two_answers_of_one_life_say_so_and_those_of_two_do_not(rig: Rig) -> None:
    driver = await running(rig)

    first, second = await counted(driver), await counted(driver)
    await driver.reset("vm-a", SEED)
    after = await counted(driver)

    assert first.counters.life
    assert first.counters.life == second.counters.life != after.counters.life
    assert first.reason == ""


async def test_a_vm_that_does_not_run_has_no_life_and_is_no_error(rig: Rig) -> None:
    driver = await running(rig)
    await driver.poweroff("vm-a")

    found = (await counted(driver)).counters

    assert (found.life, found.cpu_seconds, found.block_read_bytes) == ("", None, None)


@pytest.mark.qemu
async def test_a_guest_in_qemu_is_seen_from_outside_by_its_counters_its_screen_and_its_console(
    qemu_rig: QemuRig, eventually: Eventually
) -> None:
    driver = await running(qemu_rig)
    pid = (await driver.facts("vm-a")).pid

    # Its agent has begun: its kernel has written to the screen what it will.
    await eventually(lambda: ask(log_of(driver), "", 0, 10).pieces, BOOT_S)
    found = (await counted(driver)).counters
    picture = await screenshots_of(driver).take("vm-a")
    before = open_files(pid)
    for _ in range(50):
        await screenshots_of(driver).take("vm-a")

    assert found.cpu_seconds
    assert found.resident_bytes
    assert found.disk_bytes
    assert found.block_read_bytes
    assert found.block_read_requests
    assert (found.net_rx_packets, found.balloon_bytes) == (None, None)
    assert 0 < found.for_s < 1000
    assert abs(found.since_ms / 1000 + found.for_s - time.time()) < 60
    assert size_of_png(picture)[0] >= 640
    assert len(lit(picture)) > 100
    assert open_files(pid) <= before + 5
    assert ask(log_of(driver), "", 0, 10).boot
    # A guest that breaks into its QEMU finds its system calls filtered, and gains no rights by a program.
    status = dict(row.split(":\t", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in row)
    assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")


@pytest.mark.qemu
async def test_a_qemu_that_hangs_is_told_of_in_time_by_what_the_kernel_knows(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    pid = (await driver.facts("vm-a")).pid
    assert pid is not None
    send_signal([pid], signal.SIGSTOP)

    began = time.monotonic()
    found = await counted(driver)

    assert time.monotonic() - began < COUNTERS_S * 5
    assert found.counters.cpu_seconds is not None
    assert found.counters.block_read_bytes is None
    assert "does not answer" in found.reason


async def test_a_picture_of_a_screen_is_a_whole_png(rig: Rig) -> None:
    driver = await running(rig)

    picture = await screenshots_of(driver).take("vm-a")

    assert size_of_png(picture)


@pytest.mark.qemu
async def test_a_memory_saved_by_a_vm_without_a_display_loads_with_its_own_machine(qemu_rig: QemuRig) -> None:
    """As the agent before left it: its command line is beside the memory, and nothing says which devices it has."""
    driver = await qemu_rig.open()
    await driver.create(qemu_rig.spec("vm-a"))
    (qemu_rig.home("vm-a") / "devices.json").unlink()
    await driver.start("vm-a", SEED)
    await snapshots_of(driver).savestate("vm-a")
    await driver.close()

    after = await qemu_rig.open()
    await after.start("vm-a", SEED)

    with pytest.raises(Unsupported, match="without a display"):
        await screenshots_of(after).take("vm-a")
    assert b"VGA" not in command_line((await after.facts("vm-a")).pid)


@pytest.mark.qemu
async def test_a_memory_saved_with_a_display_loads_and_shows_what_was_on_it(
    qemu_rig: QemuRig, eventually: Eventually
) -> None:
    driver = await running(qemu_rig)
    # The agent has begun: its kernel has written to the screen what it will.
    await eventually(lambda: ask(log_of(driver), "", 0, 10).pieces, BOOT_S)
    before = lit(await screenshots_of(driver).take("vm-a"))
    await snapshots_of(driver).savestate("vm-a")

    await driver.start("vm-a", SEED)

    assert len(before) > 100
    # But for the cursor, which blinks.
    assert abs(len(lit(await screenshots_of(driver).take("vm-a"))) - len(before)) < 200


async def test_no_picture_is_taken_of_a_vm_that_does_not_run(rig: Rig) -> None:
    driver = await running(rig)
    screenshots = screenshots_of(driver)
    await driver.poweroff("vm-a")

    with pytest.raises(HypervisorError, match="does not run"):
        await screenshots.take("vm-a")


async def test_what_a_guest_prints_is_read_on_across_its_boots(process_rig: Rig, eventually: Eventually) -> None:
    driver = await running(process_rig)
    path = log_of(driver)
    with path.open("ab") as log:
        log.write(b"first life\n")

    first = ask(path, "", 0, 10)
    await driver.reset("vm-a", SEED)
    with path.open("ab") as log:
        log.write(b"second life\n")
    on = ask(path, first.boot, first.next_at, 0)
    second = ask(path, on.newer, 0, 0)

    assert b"".join(piece.data for piece in first.pieces).endswith(b"first life\n")
    assert on.pieces == []
    assert b"".join(piece.data for piece in second.pieces).endswith(b"second life\n")


def open_files(pid: Any) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def command_line(pid: Any) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def size_of_png(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose every part is whole."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    rest, kinds = picture[8:], []
    while rest:
        length, kind = struct.unpack(">I4s", rest[:8])
        assert struct.unpack(">I", rest[8 + length : 12 + length])[0] == zlib.crc32(rest[4 : 8 + length])
        kinds.append(kind)
        rest = rest[12 + length :]
    assert kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def lit(picture: bytes) -> bytes:
    """The octets of a picture that are not black; of its filters none is undone, black stays black."""
    at, data = 8, b""
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        data += picture[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(data).replace(b"\0", b"")
