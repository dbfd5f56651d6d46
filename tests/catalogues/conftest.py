"""One Rucio server for all tests of catalogues, beside an XRootD server that has the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.catalogues.rucio import RucioSettings
from tests.catalogues.rucio_peer import RucioPeer, rucio_peer
from tests.grid_stores.xrootd_peer import XrootdPeer, xrootd_peer

PASSWORD = "the password"
RSE = "VOLUNTEERS_LOCALGROUPDISK"


@pytest.fixture(scope="package")
def storage() -> Iterator[XrootdPeer]:
    with xrootd_peer() as one:
        yield one


@pytest.fixture(scope="package")
def peer(storage: XrootdPeer) -> Iterator[RucioPeer]:
    with rucio_peer(storage.port) as one:
        yield one


@pytest.fixture
def settings(peer: RucioPeer, tmp_path: Path) -> RucioSettings:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    return RucioSettings(
        url=peer.url,
        ca=str(peer.authority.ca),
        account="volunteers",
        username="vc",
        scope="volunteers",
        rse=RSE,
        secret_file=str(secret),
    )
