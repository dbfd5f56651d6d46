"""The root file system of the guest: Debian's files, our scripts, accounts, and compiled byte code.

Compiled ahead, unchecked: the guest runs under emulation on some hosts, where compiling the standard library at the
first start would cost longer than the boot.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from deploy.image import distributions, tools

MODULE_PATH = "usr/local/lib/python3.11/dist-packages"

#: One account for each job slot, so that payloads can neither see nor kill each other.
JOB_SLOTS = 16
#: The first job slot's user and group id.
FIRST_JOB_ID = 2000

#: Our files: where they go, with which mode.
_SCRIPTS = {
    "inittab.conf": ("etc/inittab", 0o644),
    "rc.sh": ("etc/rc.sh", 0o755),
    "agent.sh": ("etc/agent.sh", 0o755),
    "stop.sh": ("etc/stop.sh", 0o755),
    # The directory is the name of the ACPI event, as busybox's acpid looks it up.
    "power.sh": ("etc/acpi/PWRF/00000080", 0o755),
}
#: Programs of busybox that nothing else in the image provides.
_APPLETS = (
    "acpid awk clear diff dmesg ed find free grep gunzip gzip hostname ip kill killall less mount nc pidof ping pkill"
    " poweroff ps reboot sed setpriv sh sysctl tar telnet top umount uptime usleep vi watch wget which xargs xxd"
)


def recipe(name: str) -> bytes:
    """Read one of the scripts that ship with this package."""
    return files("deploy.image").joinpath(name).read_bytes()


def prepare_base(tree: Path) -> None:
    """Turn Debian's extracted files into a root that boots: scripts, accounts, directories, byte code."""
    _write_scripts(tree)
    _write_accounts(tree)
    _make_directories(tree)
    _link_applets(tree)
    compile_python(tree, "usr/lib/python3.11")
    make_readable(tree)


def copy(base: Path, target: Path) -> None:
    """Copy a prepared root by hard links: nothing in it is ever rewritten."""
    shutil.copytree(base, target, symlinks=True, copy_function=os.link)


def compile_python(tree: Path, directory: str) -> None:
    """Compile what lies below ``directory`` of the guest, if this Python makes the guest's byte code."""
    if not distributions.is_like_guest():
        tools.progress("not compiling: this Python's byte code is not the guest's; the first boot will be slower")
        return
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    tools.run([*command, "-s", str(tree), "-p", "/", str(tree / directory)], {"PYTHONHASHSEED": "0"})


def make_readable(top: Path) -> None:
    """Let every account read what lies below ``top``, whatever the building user's umask was."""
    for directory, _, names in os.walk(top):
        if Path(directory).name != "root":
            _add_mode(Path(directory), 0o555)
        for path in (Path(directory, name) for name in names):
            _add_mode(path, 0o444)


def _add_mode(path: Path, mode: int) -> None:
    if not path.is_symlink():
        path.chmod(path.stat().st_mode & 0o7777 | mode)


def _write_scripts(tree: Path) -> None:
    for name, (place, mode) in _SCRIPTS.items():
        _write(tree / place, recipe(name).decode(), mode)


def _write_accounts(tree: Path) -> None:
    jobs = {f"job{slot}": FIRST_JOB_ID + slot for slot in range(JOB_SLOTS)}
    users = [f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh" for name, uid in jobs.items()]
    groups = [f"{name}:x:{gid}:" for name, gid in jobs.items()]
    nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin"
    _write(tree / "etc/passwd", "\n".join(["root:x:0:0::/root:/bin/bash", *users, nobody, ""]))
    _write(tree / "etc/group", "\n".join(["root:x:0:", "tty:x:5:", *groups, "nogroup:x:65534:", ""]))
    _write(tree / "etc/hostname", "guest\n")
    _write(tree / "etc/hosts", "127.0.0.1 localhost guest\n10.0.2.100 broker\n")


def _make_directories(tree: Path) -> None:
    for name in ("dev", "proc", "sys", "run", "mnt", "usr/sbin", "var/tmp", "etc/volunteer-cloud"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (tree / name).mkdir(exist_ok=True)
        (tree / name).chmod(0o1777)
    for name in ("root", "var/lib/volunteer-cloud"):
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name).chmod(0o700 if name == "root" else 0o755)


def _link_applets(tree: Path) -> None:
    for applet in _APPLETS.split():
        if not any(os.path.lexists(tree / place / applet) for place in ("usr/bin", "usr/sbin")):
            (tree / "usr/bin" / applet).symlink_to("busybox")
    (tree / "usr/sbin/init").symlink_to("../bin/busybox")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)
