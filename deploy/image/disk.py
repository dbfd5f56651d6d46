"""Turning a directory into the read-only disk of the image: ext4 in a compressed qcow2. Mounts nothing."""

from __future__ import annotations

from pathlib import Path

from deploy.image import tools

#: Room that the file system has before a VM's own disk size lets it grow; holes take no room in the qcow2.
_SIZE_MIB = 1024
#: Fewer inodes than by default make the file system quicker to write and to grow.
_INODES = 65536


def write(tree: Path, target: Path) -> None:
    """Write ``tree`` as ``target``. Two builds differ in time stamps, hence in hash."""
    raw = target.with_suffix(".raw")
    mke2fs = tools.find_tool("mke2fs", "e2fsprogs")
    settings = ["-t", "ext4", "-q", "-F", "-L", "volcloud", "-m", "0", "-N", str(_INODES), "-O", "quota"]
    # The kernel counts by account what is on the disk, so that a job cannot take more than is its.
    extended = ["-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,quotatype=usrquota"]
    tools.run(tools.as_root([mke2fs, *settings, *extended, "-d", str(tree), str(raw), f"{_SIZE_MIB}M"]))
    _compress(raw, target)
    raw.unlink()


def _compress(raw: Path, target: Path) -> None:
    qemu_img = tools.find_tool("qemu-img", "qemu-utils")
    options = "compression_type=zstd,compat=1.1"
    tools.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, str(raw), str(target)])
