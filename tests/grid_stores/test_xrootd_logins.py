"""A grid store that lets nobody in without an X.509 proxy. XRootD reads what it logs in with once for a process, so
each case has one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grid_stores.authority import Authority
from tests.grid_stores.xrootd_peer import XrootdPeer, xrootd_peer

pytestmark = pytest.mark.slow

#: Puts a file with the proxy that is named, and says what came of it.
PUT = """
import sys
from pathlib import Path
from adapters.errors import GridStoreError
from adapters.grid_stores.xrootd import XrootdSettings, make_xrootd
url, proxy, file = sys.argv[1:]
try:
    store = make_xrootd(XrootdSettings(url=url, proxy=proxy, timeout_s=20))
    store.put(Path(file), "site-a/run-7.1/1/out")
    print(store.stat("site-a/run-7.1/1/out"))
except GridStoreError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "grid")


@pytest.fixture(scope="module")
def peer(authority: Authority) -> Iterator[XrootdPeer]:
    with xrootd_peer(authority=authority) as one:
        yield one


def put(peer: XrootdPeer, authority: Authority, proxy: Path | str, file: Path) -> str:
    file.write_bytes(b"a result")
    environment = {**os.environ, "X509_CERT_DIR": str(authority.trusted), "X509_USER_PROXY": ""}
    command = [sys.executable, "-c", PUT, peer.url, str(proxy), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_is_delivered_with_a_proxy(peer: XrootdPeer, authority: Authority, tmp_path: Path) -> None:
    said = put(peer, authority, authority.proxy("volunteer"), tmp_path / "local")

    assert said == "StoredCopy(size=8, adler32='0d0c0321')\n"
    assert peer.path("site-a/run-7.1/1/out").read_bytes() == b"a result"


def test_without_one_a_person_is_told(peer: XrootdPeer, authority: Authority, tmp_path: Path) -> None:
    said = put(peer, authority, "", tmp_path / "local")

    assert said.startswith(f"GridStoreRefused grid store root://localhost:{peer.port}: ")
    assert "Auth failed" in said


def test_a_proxy_of_another_authority_is_not_accepted(peer: XrootdPeer, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "another").proxy("volunteer")

    said = put(peer, authority, stranger, tmp_path / "local")

    assert said.startswith(f"GridStoreRefused grid store root://localhost:{peer.port}: ")
    assert "Auth failed" in said
