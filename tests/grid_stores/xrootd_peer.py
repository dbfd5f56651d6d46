"""Debian's XRootD server on loopback, in a directory of its own. It ends with the block; where a run is killed,
``tests.reaper`` ends it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tests.grid_stores.authority import Authority
from tests.unit.disks import small_disk

#: How long the server keeps what was not closed, in case its writer comes back, seconds; Debian's is ten minutes.
HOLD_S = 3
#: How long a start may take, seconds.
_START_S = 30.0
#: What a server runs as that root starts; it refuses to be root itself.
_ACCOUNTS = ("xrootd", "nobody")


class XrootdPeer(Struct, frozen=True):
    """A server: its port, and where its files are."""

    port: int
    data: Path

    @property
    def url(self) -> str:
        """A directory of it, which nobody has made yet."""
        return f"root://localhost:{self.port}//grid/volunteers"

    def path(self, name: str) -> Path:
        """Where a file of that directory is on this machine."""
        return self.data / "grid" / "volunteers" / name

    def files(self) -> list[str]:
        """Name all files that it has."""
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*") if path.is_file())


@contextlib.contextmanager
def xrootd_peer(
    *, is_read_only: bool = False, checksum: str = "adler32", disk_bytes: int = 0, authority: Authority | None = None
) -> Iterator[XrootdPeer]:
    """Run a server, on a disk of its own of that size if one is named, and with X.509 logins if an authority is. Skips
    without XRootD, which CI has."""
    if shutil.which("xrootd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        assert not os.environ.get("CI"), "CI must have xrootd-server: see deploy/packages.txt"
        pytest.skip("NOT TESTED: there is no xrootd; deploy/setup.sh test installs it")
    with tempfile.TemporaryDirectory(prefix="xrootd-") as place, contextlib.ExitStack() as stack:
        directory = Path(place)
        directory.chmod(0o755)
        peer = XrootdPeer(_free_port(), directory / "data")
        if disk_bytes:
            stack.enter_context(small_disk(peer.data, disk_bytes))
        for one in (directory, peer.data, directory / "admin"):
            one.mkdir(exist_ok=True)
            _give_away(one)
        config = directory / "xrootd.cfg"
        logins = _logins(directory, authority) if authority else []
        config.write_text(_config(peer, directory, is_read_only, checksum, logins))
        log = directory / "log"
        command = [*_command(), "-c", str(config), "-l", str(log), "-s", f"{directory}/admin/pid"]
        process = stack.enter_context(_running(command, directory))
        _wait(process, peer.port, log)
        yield peer


def _config(peer: XrootdPeer, directory: Path, is_read_only: bool, checksum: str, logins: list[str]) -> str:
    lines = [
        *logins,
        f"all.export / {'r/o' if is_read_only else ''}",
        f"oss.localroot {peer.data}",
        f"all.adminpath {directory}/admin",
        f"all.pidpath {directory}/admin",
        f"xrd.port {peer.port}",
        "xrd.allow host localhost",
        f"ofs.persist auto hold {HOLD_S}",
        f"xrootd.chksum {checksum}" if checksum else "",
    ]
    return "\n".join(lines) + "\n"


def _logins(directory: Path, authority: Authority) -> list[str]:
    """Let those in that an authority vouches for: the server has its own certificate, and believes that authority."""
    certificate, key = authority.issue("localhost")
    place = directory / "gsi"
    shutil.copytree(authority.trusted, place / "certificates", symlinks=True)
    for file, mode in ((certificate, 0o444), (key, 0o400)):
        copy = Path(shutil.copy(file, place))
        copy.chmod(mode)
        _give_away(copy)
    files = f"-cert:{place}/{certificate.name} -key:{place}/{key.name} -certdir:{place}/certificates"
    return [
        "xrootd.seclib libXrdSec.so",
        f"sec.protocol gsi {files} -crl:0 -gmapopt:10 -dlgpxy:0",
        "sec.protbind * only gsi",
    ]


def _command() -> list[str]:
    program = shutil.which("xrootd", path=f"{os.environ['PATH']}:/usr/sbin") or "xrootd"
    return [program, "-R", _account()] if os.geteuid() == 0 else [program]


def _account() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _ACCOUNTS if name in known)


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, _account())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: list[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"xrootd did not start: {log.read_text()[-2000:] if log.exists() else process.poll()}")
