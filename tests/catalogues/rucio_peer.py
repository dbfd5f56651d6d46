"""A real Rucio server on loopback, by TLS, on SQLite in a directory of its own. It ends with the block; where a run is
killed, ``tests.reaper`` ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tests.grid_stores.authority import Authority
from tests.source import ROOT

PYTHON = ROOT / ".cache" / "rucio" / "bin" / "python"
INSTALL = ROOT / "deploy" / "peers" / "rucio.sh"
#: How long making the database and starting may take.
_START_S = 120.0

_SETTINGS = """
[common]
logdir = {directory}
loglevel = INFO
[database]
default = sqlite:///{directory}/rucio.db
[bootstrap]
userpass_identity = root
userpass_pwd = root's password
[alembic]
cfg = {directory}/alembic.ini
[policy]
permission = generic
schema = generic
lfn2pfn_algorithm_default = hash
[client]
rucio_host = {url}
auth_host = {url}
ca_cert = {ca}
auth_type = userpass
username = vc
password = the password
account = volunteers
"""

_ALEMBIC = """
[alembic]
sqlalchemy.url = sqlite:///{directory}/rucio.db
script_location = {scripts}
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARN
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
[formatter_generic]
format = %(message)s
"""


class RucioPeer(Struct, frozen=True):
    """A server: where it listens, and the directory with its settings and log."""

    url: str
    directory: Path
    #: Who vouches for it, and for those whom it lets in by certificate.
    authority: Authority

    def client(self, code: str) -> str:
        """Run code with Rucio's own client, ``client``; gives what it prints."""
        program = f"from rucio.client import Client\nclient = Client()\n{code}"
        environment = {**os.environ, "RUCIO_CONFIG": str(self.directory / "rucio.cfg"), "HOME": str(self.directory)}
        command = [str(PYTHON), "-W", "ignore", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def rucio_peer(storage_port: int) -> Iterator[RucioPeer]:
    """Run a server whose files are at an XRootD server of that port. Skips where Rucio is not; CI installs it."""
    if os.environ.get("CI"):
        subprocess.run([INSTALL], check=True, timeout=900)
    if not (PYTHON.parent.parent / ".ready").exists():
        pytest.skip(f"NOT TESTED: there is no Rucio; {INSTALL.relative_to(ROOT)} installs it")
    with tempfile.TemporaryDirectory(prefix="rucio-") as place:
        directory, port = Path(place), _free_port()
        peer = RucioPeer(f"https://localhost:{port}", directory, Authority(directory / "authority"))
        settings = _SETTINGS.format(directory=directory, url=peer.url, ca=peer.authority.ca)
        (directory / "rucio.cfg").write_text(settings)
        (directory / "alembic.ini").write_text(_ALEMBIC.format(directory=directory, scripts=_scripts()))
        with (directory / "log").open("wb") as log, _running(peer, port, storage_port, log) as process:
            _wait(process, peer)
            yield peer


def _scripts() -> Path:
    return next(PYTHON.parent.parent.glob("lib/python*/site-packages/rucio")) / "db/sqla/migrate_repo"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(peer: RucioPeer, port: int, storage_port: int, log: object) -> Iterator[subprocess.Popen[bytes]]:
    program = str(Path(__file__).with_name("rucio_server.py"))
    environment = {**os.environ, "RUCIO_CONFIG": str(peer.directory / "rucio.cfg"), "HOME": str(peer.directory)}
    files = [str(file) for file in (*peer.authority.issue("localhost"), peer.authority.ca)]
    command = [str(PYTHON), "-W", "ignore", program, str(port), str(storage_port), *files]
    process = subprocess.Popen(command, env=environment, cwd=peer.directory, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], peer: RucioPeer) -> None:
    deadline = time.monotonic() + _START_S
    trusting = ssl.create_default_context(cafile=peer.authority.ca)
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            with urllib.request.urlopen(f"{peer.url}/ping", timeout=10, context=trusting) as answer:
                assert b"41.5.1" in answer.read()
                return
        time.sleep(0.1)
    raise AssertionError(f"Rucio did not start: {(peer.directory / 'log').read_text()[-3000:]}")
