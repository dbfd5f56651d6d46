"""The Debian part of the image: packages fetched by mmdebstrap, unpacked and trimmed.

No maintainer script is run and nothing is mounted: packages are only extracted, so this works in a container and
without being root. What a script would have set up (accounts, byte code, init) the other modules write themselves.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from deploy.image import tools

SUITE = "bookworm"

#: The kernel without hardware drivers; a complete Python 3.11; libstdc++ for compiled payloads such as event
#: generators; bash since job scripts assume it; e2fsprogs to grow the root disk.
PACKAGES = (
    "bash",
    "busybox-static",
    "e2fsprogs",
    "libpython3.11-stdlib",
    "libstdc++6",
    "linux-image-cloud-amd64",
    "netbase",
    "python3-minimal",
)

#: Directories that a job slot never looks at; copyright files stay, as the licences ask.
_TRIMMED = (
    "boot",
    "dev",
    "etc/initramfs-tools",
    "etc/kernel",
    "usr/lib/klibc",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/turtledemo",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "var/lib/apt",
    "var/lib/dpkg",
)

#: Not part of the root: the kernel is booted from outside, its few modules go into the initramfs.
_MOVED_OUT = ("boot/vmlinuz-", "usr/lib/modules/")

#: Merged /usr, which Debian's own tools would have made before the first package.
_MERGED_USR = 'for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done'
_LIST_PACKAGES = 'ls "$1/var/cache/apt/archives" | grep "[.]deb$" > "$1/packages.txt"'


def fetch(archive: Path) -> None:
    """Write all packages, extracted, into one tar file."""
    mmdebstrap = tools.find_tool("mmdebstrap", "mmdebstrap")
    command = [
        mmdebstrap,
        "--mode=root" if os.geteuid() != 0 else "--mode=auto",
        "--variant=extract",
        "--architectures=amd64",
        "--format=tar",
        "--skip=output/dev,chroot/mount",
        f"--include={','.join(PACKAGES)}",
        f"--setup-hook={_MERGED_USR}",
        f"--extract-hook={_LIST_PACKAGES}",
        SUITE,
        str(archive),
    ]
    # Owners that the building user may not give away do not matter: every file of the image is root's.
    environment = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(archive.parent), "TAR_OPTIONS": "--no-same-owner"}
    tools.run(tools.as_root(command), environment)


def unpack(archive: Path, base: Path) -> None:
    """Lay out ``tree`` (the trimmed root), ``vmlinuz``, ``modules`` and ``packages.txt`` under ``base``."""
    whole = base / "whole"
    with tarfile.open(archive) as tar:
        # Newer Pythons refuse the absolute links that a root file system is full of.
        tar.extraction_filter = lambda member, _path: member
        tar.extractall(whole, members=_wanted(tar))
    (whole / "packages.txt").rename(base / "packages.txt")
    next((whole / "boot").glob("vmlinuz-*")).rename(base / "vmlinuz")
    next((whole / "usr/lib/modules").iterdir()).rename(base / "modules")
    for empty in ("boot", "usr/lib/modules"):
        (whole / empty).rmdir()
    whole.rename(base / "tree")


def _wanted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if not member.isdev() and not is_trimmed(member.name.removeprefix("./")):
            # No set-user-ID programs: a payload has nothing to gain in the guest.
            member.mode &= 0o1777
            yield member


def is_trimmed(name: str) -> bool:
    """Say whether a file of a package is left out of the image."""
    if name.startswith(_MOVED_OUT):
        return False
    if name.startswith("usr/share/doc/"):
        return name.count("/") > 3 and not name.endswith("/copyright")
    return any(name == unwanted or name.startswith(unwanted + "/") for unwanted in _TRIMMED)
