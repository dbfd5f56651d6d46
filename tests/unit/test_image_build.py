"""Parts of the image build that need no Debian: module order, the archive's form, what is trimmed, what is cached."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.image import debian, distributions, initramfs
from deploy.image.errors import BuildError


def module(directory: Path, name: str, depends: str) -> None:
    (directory / f"{name}.ko").write_bytes(b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0retpoline=Y\0")


def test_modules_load_after_what_they_need_and_once(tmp_path):
    module(tmp_path, "virtio", "virtio_ring")
    module(tmp_path, "virtio_ring", "")
    module(tmp_path, "virtio-rng", "virtio,virtio_ring")
    module(tmp_path, "virtio_net", "virtio_ring,virtio")

    order = initramfs.load_order(["virtio-rng", "virtio_net"], initramfs.find_modules(tmp_path))

    assert [path.stem for path in order] == ["virtio_ring", "virtio", "virtio-rng", "virtio_net"]


def test_a_module_that_the_kernel_lacks_is_named(tmp_path):
    with pytest.raises(BuildError, match="evdev"):
        list(initramfs.load_order(["evdev"], {}))


def test_the_initramfs_is_an_archive_that_cpio_reads(tmp_path):
    for name in initramfs.MODULES:
        module(tmp_path, name, "")
    (tmp_path / "busybox").write_bytes(b"program")

    initramfs.write(tmp_path / "initrd", tmp_path / "busybox", tmp_path, b"#!/bin/sh\n")
    with (tmp_path / "initrd").open("rb") as archive:
        listing = subprocess.run(["cpio", "-t"], stdin=archive, capture_output=True, text=True, check=True)

    names = listing.stdout.split()
    assert {"init", "bin/busybox", "bin/sh", "modules/order", "modules/virtio-rng.ko"} <= set(names)


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("usr/bin/python3.11", True),
        ("boot/vmlinuz-6.1.0", True),
        ("boot/System.map-6.1.0", False),
        ("usr/lib/modules/6.1.0/kernel/fs/fuse.ko", True),
        ("usr/share/doc/bash/copyright", True),
        ("usr/share/doc/bash/NEWS.gz", False),
        ("usr/share/man/man1/bash.1.gz", False),
        ("usr/share/manifest", True),
        ("usr/lib/python3.11/test/support/__init__.py", False),
        ("usr/lib/python3.11/zipfile.py", True),
    ],
)
def test_what_a_job_slot_never_looks_at_is_left_out_and_licences_stay(name, is_kept):
    assert debian.is_trimmed(name) is not is_kept


def test_the_guest_gets_our_packages_and_what_they_import(tmp_path):
    if not distributions.is_like_guest():
        pytest.skip("on another Python these are downloaded")

    distributions.install(tmp_path / "target", (), tmp_path)

    assert {"schemas", "broker", "guest_agent", "pika", "msgspec", "msgpack"} <= {
        p.name for p in (tmp_path / "target").iterdir()
    }
    assert not list((tmp_path / "target").rglob("__pycache__"))


def test_a_wheel_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"not a zip")

    with pytest.raises(BuildError, match="not a wheel"):
        distributions.install(tmp_path / "target", (tmp_path / "a.whl",), tmp_path)
