"""The disk of a guest, divided among its slots: what is promised to one is not promised to another."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import reserve
from guest_agent import disk as disks
from guest_agent import quota
from guest_agent.accounts import Account
from guest_agent.cache import InputCache
from guest_agent.disk import Disk
from guest_agent.quota import DiskAmount
from schemas.jobs import Outcome
from tests.unit.disks import small_disk
from tests.unit.guests import Guest

MIB = 1 << 20
ACCOUNTS = [Account(64021, 64021), Account(64022, 64022)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a payload another account")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 40 MiB, 10 of which are the agent's."""
    monkeypatch.setattr(disks, "RESERVE_BYTES", 10 * MIB)
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 0)
    with small_disk(tmp_path / "disk", 40 * MIB) as directory:
        yield directory


async def fetch_nothing(sha256: str, target: Path, partial: Path) -> None:
    raise AssertionError(f"nobody asked for {sha256}")


def disk_of(directory: Path, *, slots: int = 2) -> Disk:
    return Disk(directory, InputCache(directory / "inputs", fetch_nothing), accounts=[None] * slots)


def test_two_jobs_that_want_all_there_is_are_promised_it_once_and_each_its_half(place: Path) -> None:
    """Others have taken of the disk since it was offered."""
    disk = disk_of(place)
    disk.offered_bytes()
    (place / "others").write_bytes(bytes(10 * MIB))

    promised = [disk.begin(place / name, None, 15 * MIB).bytes for name in ("slot-0", "slot-1")]

    assert 19 * MIB < sum(promised) <= 20 * MIB
    assert abs(promised[0] - promised[1]) < MIB


def test_one_job_may_have_more_than_its_slots_part_of_what_was_offered(place: Path) -> None:
    disk = disk_of(place)

    assert disk.offered_bytes() > 25 * MIB
    assert disk.begin(place / "slot-0", None, 25 * MIB).bytes == 25 * MIB


def test_what_a_job_has_taken_of_its_promise_is_not_taken_off_twice(place: Path) -> None:
    disk = disk_of(place)
    disk.begin(place / "slot-0", None, 14 * MIB)
    (place / "taken").write_bytes(bytes(10 * MIB))
    disk.note_used(place / "slot-0", DiskAmount(10 * MIB, 1))

    assert 15 * MIB < disk.begin(place / "slot-1", None, 20 * MIB).bytes <= 16 * MIB


def test_files_are_divided_as_bytes_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(place).f_favail
    monkeypatch.setattr(disks, "RESERVE_FILES", 100)
    monkeypatch.setattr(disks, "MOST_FILES", free)
    disk = disk_of(place, slots=4)

    promised = [disk.begin(place / f"slot-{number}", None, MIB).files for number in range(4)]

    assert sum(promised) <= free - 100
    assert min(promised) > free // 5


async def test_a_job_may_have_so_many_files_and_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "MOST_FILES", 500)
    guest = Guest(tmp_path)
    try:
        completion = await guest.run(
            "/bin/sh", "-c", "i=0; while [ $i -lt 600 ]; do i=$((i+1)); : > $i; done; sleep 60", disk_mib=100
        )
    finally:
        guest.close()

    assert completion.outcome == Outcome.FAILED
    assert "files and directories, its limit was 500" in completion.cause


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Path]:
    """A file system that counts by account, as our image's does. Skips where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    image, directory = tmp_path / "image", tmp_path / "counting"
    directory.mkdir()
    image.touch()
    os.truncate(image, 64 * MIB)
    extended = ["-E", "quotatype=usrquota", "-N", "4096", "-m", "0"]
    subprocess.run(["mke2fs", "-t", "ext4", "-q", "-F", "-O", "quota", *extended, image], check=True)
    if subprocess.run(["mount", "-o", "loop,usrquota", image, directory], check=False).returncode:
        pytest.skip("NOT TESTED here, but in QEMU: this kernel mounts no ext4 with quota from a file")
    yield directory
    subprocess.run(["umount", directory], check=True)


def counted(directory: Path) -> Disk:
    kernels = quota.of(directory)
    assert kernels is not None
    return Disk(directory, InputCache(directory / "inputs", fetch_nothing), kernels, ACCOUNTS)


def test_the_kernel_keeps_an_account_to_its_bytes_and_files(counting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "RESERVE_BYTES", MIB)
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 0)
    monkeypatch.setattr(disks, "RESERVE_FILES", 100)
    monkeypatch.setattr(disks, "MOST_FILES", 300)
    counting.chmod(0o1777)
    disk = counted(counting)

    promised = disk.begin(counting / "slot-0", ACCOUNTS[0], 10 * MIB)
    left_before = disk.left(ACCOUNTS[0])
    subprocess.run(
        ["/bin/sh", "-c", "mkdir d; i=0; while : > d/$((i=i+1)); do :; done"],
        cwd=counting,
        user=ACCOUNTS[0].uid,
        stderr=subprocess.DEVNULL,
        check=False,
    )

    left = disk.left(ACCOUNTS[0])
    assert promised == DiskAmount(10 * MIB, 300) == left_before
    assert left is not None
    assert (left.files, len(list((counting / "d").iterdir()))) == (0, 299)
    assert disk.offered_bytes() > 40 * MIB
