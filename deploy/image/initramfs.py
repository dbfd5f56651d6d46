"""The first stage of the guest: busybox, the kernel modules it needs, in load order, and one script.

Modules are loaded here by ``insmod`` in the order of their dependencies, read from the modules themselves, so that the
root disk carries no modules and no depmod is needed. The archive is not compressed: unpacking is slower than reading.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from deploy.image.errors import BuildError

#: What our machines consist of: disk, network, seed port, randomness, fw_cfg, quota, the power button with its event
#: file, and the drive in which the host shows inputs.
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "qemu_fw_cfg",
    "quota_v2",
    "button",
    "evdev",
    "virtio_scsi",
    "sr_mod",
)

_APPLETS = ("insmod", "mount", "poweroff", "sh", "switch_root", "usleep")
_DIRECTORIES = ("bin", "dev", "modules", "proc", "root", "sys")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def write(target: Path, busybox: Path, modules: Path, init: bytes) -> None:
    """Write the archive. ``modules`` is the directory that the kernel package names after the kernel's version."""
    ordered = list(load_order(MODULES, find_modules(modules)))
    with target.open("wb") as out:
        for number, entry in enumerate(_entries(busybox, ordered, init), start=1):
            out.write(_newc(number, *entry))
        out.write(_newc(0, "TRAILER!!!", 0, b""))


def find_modules(directory: Path) -> dict[str, Path]:
    """Name every module of a kernel, with underscores as the kernel itself compares them."""
    return {_canonical(path.stem): path for path in directory.rglob("*.ko")}


def load_order(wanted: Iterable[str], known: dict[str, Path]) -> Iterator[Path]:
    """Yield the files of ``wanted`` and all they depend on, each after its dependencies, none twice."""
    done: set[str] = set()
    for name in wanted:
        yield from _with_dependencies(_canonical(name), known, done)


def _with_dependencies(name: str, known: dict[str, Path], done: set[str]) -> Iterator[Path]:
    if name in done:
        return
    done.add(name)
    if name not in known:
        raise BuildError(f"the kernel package has no module {name}")
    for dependency in _dependencies(known[name]):
        yield from _with_dependencies(dependency, known, done)
    yield known[name]


def _dependencies(module: Path) -> list[str]:
    found = _DEPENDS.search(module.read_bytes())
    # virtio and virtio_ring are listed in an order of the packager's; following them one by one puts it right.
    return [_canonical(name) for name in found[1].decode().split(",") if name] if found else []


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _entries(busybox: Path, modules: list[Path], init: bytes) -> Iterator[tuple[str, int, bytes]]:
    for directory in _DIRECTORIES:
        yield directory, stat.S_IFDIR | 0o755, b""
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()
    for applet in _APPLETS:
        yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"
    for module in modules:
        yield f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()
    yield "modules/order", stat.S_IFREG | 0o644, "".join(f"{module.name}\n" for module in modules).encode()
    yield "init", stat.S_IFREG | 0o755, init


def _newc(inode: int, name: str, mode: int, content: bytes) -> bytes:
    """Encode one entry in cpio's "newc" form: thirteen eight-digit hexadecimal fields, all parts padded to four."""
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
