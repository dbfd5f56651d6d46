"""XRootD and Rucio on loopback, by a program of their own: ``python -m benchmarks.grids.storage`` says where they are.

They are gone afterwards with all that they have started, also when we are killed: ``tests.reaper`` sees to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.alternation import say
from benchmarks.arena import RoleFailed
from tests import reaper
from tests.catalogues.conftest import PASSWORD, RSE
from tests.catalogues.rucio_peer import PYTHON, rucio_peer
from tests.grid_stores.xrootd_peer import xrootd_peer
from tests.source import ROOT

SCOPE = "volunteers"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """Where they are: a directory of XRootD, and Rucio with what its own client is told by."""

    url: str
    rucio_url: str
    ca: str
    #: Rucio's own settings.
    config: str
    #: File of the password.
    secret: str

    @property
    def grid_store(self) -> dict[str, str]:
        """What an adapter is told of the store."""
        return {"kind": "xrootd", "url": self.url}

    @property
    def catalogue(self) -> dict[str, str]:
        """What an adapter is told of the catalogue."""
        login = {"account": SCOPE, "username": "vc", "secret_file": self.secret, "ca": self.ca}
        return {"kind": "rucio", "url": self.rucio_url, "scope": SCOPE, "rse": RSE, **login}

    def rucio(self, program: str, *arguments: str) -> str:
        """Run a program by Rucio's own Python, with Rucio's own client; gives what it prints."""
        environment = {**os.environ, "RUCIO_CONFIG": self.config, "HOME": str(Path(self.config).parent)}
        command = [str(PYTHON), "-W", "ignore", "-c", program, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RoleFailed(f"Rucio's client ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout


@contextmanager
def storage(directory: Path) -> Iterator[Storage]:
    """Have both for as long as the block lasts."""
    say("starting XRootD and Rucio …")
    tree = Path(tempfile.mkdtemp(prefix="vb-"))
    tree.chmod(0o711)  # XRootD runs as another, and passes through
    command = json.dumps([sys.executable, "-m", "benchmarks.grids.storage"])
    told = {reaper.COMMAND: command, reaper.TREE: str(tree), "TMPDIR": str(tree), "PYTHONPATH": str(ROOT)}
    with (directory / "storage.log").open("ab") as log:
        program = [sys.executable, "-S", "-E", reaper.__file__, str(os.getpid())]
        process = subprocess.Popen(
            program, env=os.environ | told, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, umask=0o022
        )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RoleFailed(f"XRootD or Rucio did not start: {(directory / 'storage.log').read_text()[-2000:]}")
        yield msgspec.json.decode(line, type=Storage)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def main() -> None:
    """Start both, say where, and wait to be ended."""
    with xrootd_peer() as store, rucio_peer(store.port) as catalogue:
        secret = catalogue.directory / "password"
        secret.write_text(PASSWORD)
        where = Storage(
            url=store.url,
            rucio_url=catalogue.url,
            ca=str(catalogue.authority.ca),
            config=str(catalogue.directory / "rucio.cfg"),
            secret=str(secret),
        )
        sys.stdout.write(msgspec.json.encode(where).decode() + "\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
