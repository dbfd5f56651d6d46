"""Files registered in a real Rucio server, and what it then says of them to its own client."""

from __future__ import annotations

import http.server
import json
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.catalogues.contract import Catalogue, Replica
from adapters.catalogues.rucio import RucioSettings, make_rucio
from adapters.errors import CatalogueRefused, CatalogueUnavailable
from adapters.grid_stores.names import CopyName, collection_name, copy_name
from tests.catalogues.conftest import PASSWORD
from tests.catalogues.rucio_peer import RucioPeer
from tests.grid_stores.authority import Authority
from tests.grid_stores.places import at_server
from tests.grid_stores.wire import wire
from tests.grid_stores.xrootd_peer import XrootdPeer

#: The first one may have to install Rucio.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

JOB = "site-a/run-7.1"
COLLECTION = collection_name(JOB)


@pytest.fixture
def catalogue(settings: RucioSettings) -> Iterator[Catalogue]:
    made = make_rucio(settings)
    yield made
    made.close()


def replica(peer: XrootdPeer, output: str, *, size: int = 7, adler32: str = "0badcafe", job: str = JOB) -> Replica:
    name = copy_name(job, 1, output)
    url = f"{peer.url}/{name}"
    return Replica(name=name, size=size, adler32=adler32, url=url, collection=collection_name(job))


def listed(peer: RucioPeer, *names: str) -> dict[str, Any]:
    """What Rucio's own client says of files."""
    dids = [{"scope": "volunteers", "name": name} for name in names]
    printed = peer.client(
        f"import json\nfor one in client.list_replicas({dids!r}, sort='random'): print(json.dumps(one))"
    )
    return {row["name"]: row for row in map(json.loads, printed.splitlines())}


def members(peer: RucioPeer, collection: str) -> list[str]:
    printed = peer.client(f"for one in client.list_content('volunteers', {collection!r}): print(one['name'])")
    return sorted(printed.split())


def test_a_file_that_is_registered_has_size_checksum_and_a_name_that_opens(
    catalogue: Catalogue, peer: RucioPeer, storage: XrootdPeer, tmp_path: Path
) -> None:
    store = at_server(storage).store
    name = copy_name(JOB, 1, "Ergebnis für später.root")
    (tmp_path / "local").write_bytes(b"a result" * 1000)
    store.put(tmp_path / "local", name)
    there = store.stat(name)

    refused = catalogue.register(
        [Replica(name=name, size=there.size, adler32=there.adler32, url=store.url(name), collection=COLLECTION)]
    )

    row = listed(peer, name)[name]
    assert refused == {}
    assert (row["bytes"], row["adler32"]) == (8000, there.adler32)
    assert name in members(peer, COLLECTION)
    for url in row["pfns"]:
        subprocess.run(["xrdcp", "-s", "-f", url, str(tmp_path / "back")], check=True, timeout=60)
        assert (tmp_path / "back").read_bytes() == b"a result" * 1000
    assert len(row["pfns"]) == 1


def test_the_same_again_is_fine(catalogue: Catalogue, storage: XrootdPeer, peer: RucioPeer) -> None:
    copies = [replica(storage, f"again-{number}") for number in range(3)]

    assert [catalogue.register(copies) for _ in range(3)] == [{}, {}, {}]
    assert {copy.name for copy in copies} <= set(members(peer, COLLECTION))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adler32": "00000001"}, "has it with 7 bytes with adler32 0badcafe, and it is 7 bytes with adler32 00000001"),
        ({"size": 8}, "has it with 7 bytes with adler32 0badcafe, and it is 8 bytes with adler32 0badcafe"),
    ],
)
def test_another_file_of_a_name_that_is_known_is_refused_with_both_and_changes_nothing(
    catalogue: Catalogue, storage: XrootdPeer, peer: RucioPeer, change: dict[str, Any], said: str
) -> None:
    first, bystander = replica(storage, f"other-{next(iter(change))}"), replica(storage, f"by-{next(iter(change))}")
    catalogue.register([first])

    refused = catalogue.register([msgspec.structs.replace(first, **change), bystander])

    assert list(refused) == [first.name]
    assert said in refused[first.name]
    rows = listed(peer, first.name, bystander.name)
    assert (rows[first.name]["bytes"], rows[first.name]["adler32"]) == (7, "0badcafe")
    assert bystander.name in rows


def test_hundreds_are_registered_in_few_requests(settings: RucioSettings, storage: XrootdPeer, peer: RucioPeer) -> None:
    copies = [replica(storage, f"many-{number}", job="site-a/many.1") for number in range(450)]
    catalogue = make_rucio(settings)
    began = time.monotonic()

    assert catalogue.register(copies) == {}

    assert time.monotonic() - began < 60
    assert len(members(peer, collection_name("site-a/many.1"))) == 450


def test_a_file_that_rucio_does_not_take_is_found_among_those_that_it_takes(
    catalogue: Catalogue, storage: XrootdPeer, peer: RucioPeer
) -> None:
    good = [replica(storage, f"good-{number}") for number in range(9)]
    name = copy_name(JOB, 1, "elsewhere")
    bad = Replica(name=name, size=1, adler32="00000001", url="root://elsewhere.example.org//x/y")

    refused = catalogue.register([*good[:4], bad, *good[4:]])

    assert list(refused) == [name]
    assert "RSEFileNameNotSupported" in refused[name]
    assert set(listed(peer, name, *(copy.name for copy in good))) == {copy.name for copy in good}


def test_a_place_that_rucio_has_and_we_name_otherwise_is_said(catalogue: Catalogue, storage: XrootdPeer) -> None:
    first = replica(storage, "moved")
    catalogue.register([first])

    refused = catalogue.register([msgspec.structs.replace(first, url=f"{first.url}.elsewhere")])

    assert "moved, and it is" in refused[first.name]


def test_a_name_that_a_dataset_has_is_refused(catalogue: Catalogue, storage: XrootdPeer) -> None:
    catalogue.register([replica(storage, "something", job="site-a/taken.1")])
    taken = collection_name("site-a/taken.1")

    refused = catalogue.register([Replica(name=taken, size=1, adler32="00000001", url=f"{storage.url}/{taken}")])

    assert refused == {taken: "Rucio has a dataset of this name"}


def test_a_file_need_not_be_gathered(catalogue: Catalogue, storage: XrootdPeer, peer: RucioPeer) -> None:
    alone = msgspec.structs.replace(replica(storage, "alone"), collection=None)

    assert catalogue.register([alone]) == {}
    assert alone.name in listed(peer, alone.name)
    assert catalogue.register([]) == {}


def test_names_without_slashes_are_made_for_servers_that_want_them(
    settings: RucioSettings, storage: XrootdPeer, peer: RucioPeer
) -> None:
    copy = replica(storage, "dots.root", job="site-a/dotted.1")

    assert make_rucio(msgspec.structs.replace(settings, separator="..")).register([copy]) == {}
    assert members(peer, "site-a..dotted") == ["site-a..dotted.1..1..dots.root"]


def test_a_token_that_the_server_has_forgotten_is_replaced(
    catalogue: Any, storage: XrootdPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.register([replica(storage, "before")])
    monkeypatch.setattr(catalogue._session, "_token", "volunteers-vc-unknown-00000000000000000000000000000000")

    assert catalogue.register([replica(storage, "after")]) == {}


def test_a_token_of_a_file_is_used_and_read_anew(
    settings: RucioSettings, storage: XrootdPeer, peer: RucioPeer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("volunteers-vc-unknown-00000000000000000000000000000000")
    catalogue = make_rucio(msgspec.structs.replace(settings, auth="token", secret_file=str(file)))
    with pytest.raises(CatalogueRefused, match="CannotAuthenticate"):
        catalogue.register([replica(storage, "token")])

    file.write_text(peer.client("print(client.auth_token)"))

    assert catalogue.register([replica(storage, "token")]) == {}


def test_a_proxy_logs_in_and_may_be_another_one_at_the_next_login(
    settings: RucioSettings, storage: XrootdPeer, peer: RucioPeer, tmp_path: Path
) -> None:
    proxy = tmp_path / "proxy"
    shutil.copy(peer.authority.proxy("volunteer"), proxy)
    catalogue = make_rucio(msgspec.structs.replace(settings, auth="proxy", username="", secret_file=str(proxy)))
    assert catalogue.register([replica(storage, "by-proxy")]) == {}

    shutil.copy(peer.authority.proxy("somebody-else"), proxy)

    with pytest.raises(CatalogueRefused, match="does not log us in: Cannot authenticate to account volunteers"):
        catalogue.try_out()


def test_a_server_of_an_authority_that_we_do_not_know_gets_no_password(
    settings: RucioSettings, storage: XrootdPeer, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "another")

    with pytest.raises(CatalogueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        make_rucio(msgspec.structs.replace(settings, ca=str(other.ca))).try_out()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rse": "NOWHERE"}, "RSENotFound.*NOWHERE"),
        ({"rse": "VOLUNTEERS_DATADISK"}, "AccessDenied.*can not add file replicas"),
        ({"scope": "others"}, "AccessDenied.*can not add file DIDs"),
        ({"account": "nobody"}, "does not log us in"),
        ({"username": "somebody"}, "does not log us in"),
    ],
)
def test_what_no_file_would_fare_better_with_is_for_a_person(
    settings: RucioSettings, storage: XrootdPeer, change: dict[str, str], said: str
) -> None:
    catalogue = make_rucio(msgspec.structs.replace(settings, **change))

    with pytest.raises(CatalogueRefused, match=f"catalogue {settings.url}: .*{said}"):
        catalogue.register([replica(storage, "refused")])


def test_a_password_that_is_wrong_is_said_and_not_shown(
    settings: RucioSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Path(settings.secret_file).write_text("a secret that is wrong")

    with pytest.raises(CatalogueRefused, match="does not log us in") as caught:
        make_rucio(settings).try_out()

    shown = f"{caught.value!r} {caught.value.__cause__!r} {settings!r} {caplog.text}"
    assert "a secret that is wrong" not in shown


def test_nothing_secret_is_logged(
    settings: RucioSettings, storage: XrootdPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    catalogue: Any = make_rucio(settings)
    catalogue.register([replica(storage, "logged")])

    token = catalogue._session._token
    assert len(token) > 20
    assert token not in f"{caplog.text} {catalogue!r} {catalogue._session!r}"
    assert PASSWORD not in caplog.text


def test_a_server_that_is_away_or_silent_is_said_to_be_in_bounded_time(
    settings: RucioSettings, storage: XrootdPeer
) -> None:
    with wire(1, is_silent=True) as silent:
        quiet = msgspec.structs.replace(settings, url=f"http://127.0.0.1:{silent.port}", timeout_s=1)
        began = time.monotonic()
        with pytest.raises(CatalogueUnavailable, match="timed out; we try again"):
            make_rucio(quiet).register([replica(storage, "quiet")])
        assert time.monotonic() - began < 10
    with pytest.raises(CatalogueUnavailable, match="refused; we try again"):
        make_rucio(quiet).register([replica(storage, "away")])


class Nonsense(http.server.BaseHTTPRequestHandler):
    """Answers as a broken proxy in front of a server does."""

    def do_GET(self) -> None:
        self._answer(200, b"", {"X-Rucio-Auth-Token": "a-token"})

    def do_POST(self) -> None:
        self._answer(*self.server.says)  # type: ignore[attr-defined]

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    "says",
    [
        (502, b"<html>Bad Gateway\x1b[31m</html>", {}),
        (200, b"{no json", {"Content-Type": "application/x-json-stream"}),
        (200, b"\xff\xfe\n", {"Content-Type": "application/x-json-stream"}),
        (500, b'{"ExceptionClass": "DatabaseException", "ExceptionMessage": "ORA-3113"}', {}),
        (500, b'{"ExceptionClass": "RucioException", "ExceptionMessage": "database is locked"}', {}),
        (500, b"[]", {}),
    ],
)
def test_an_answer_that_makes_no_sense_or_passes_is_for_later(
    settings: RucioSettings, says: tuple[int, bytes, dict[str, str]]
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    server.says = says  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        catalogue = make_rucio(msgspec.structs.replace(settings, url=url, timeout_s=5))
        with pytest.raises(CatalogueUnavailable, match="we try again") as caught:
            catalogue.register([Replica(name=CopyName("a"), size=1, adler32="00000001", url="root://a//b")])
    finally:
        server.shutdown()
        server.server_close()

    assert str(caught.value).isprintable()
