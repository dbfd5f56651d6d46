"""Disks that do not do what they are asked: one that is full, and a kernel that takes a part of each write."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own of that size. Skips without root, which CI must have."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI must run this as root: it mounts a file system"
        pytest.skip("NOT TESTED: a disk that is full needs a file system of its own, and that needs root")
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        unmount(directory)


def unmount(directory: Path, patience_s: float = 20.0) -> None:
    """Take it away, once those who just end have let go of it."""
    deadline = time.monotonic() + patience_s
    while subprocess.run(["umount", directory], check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise AssertionError(f"somebody holds {directory}")
        time.sleep(0.05)


def fill(directory: Path, *, leaving: int = 0) -> None:
    """Fill a disk but for ``leaving`` bytes."""
    disk = os.statvfs(directory)
    with (directory / "ballast").open("wb") as file:
        file.write(b"x" * max(0, disk.f_bavail * disk.f_frsize - leaving))


def grudge(monkeypatch: pytest.MonkeyPatch, most: int = 4096) -> list[int]:
    """Have a kernel that takes ``most`` bytes at a time, as it may on a disk that is nearly full; gives its counts."""
    counts: list[int] = []
    write, pwrite = os.write, os.pwrite

    def some(descriptor: int, data: bytes) -> int:
        counts.append(write(descriptor, data[:most]))
        return counts[-1]

    def some_at(descriptor: int, data: bytes, offset: int) -> int:
        counts.append(pwrite(descriptor, data[:most], offset))
        return counts[-1]

    monkeypatch.setattr(os, "write", some)
    monkeypatch.setattr(os, "pwrite", some_at)
    return counts
