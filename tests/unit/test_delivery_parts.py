"""Grid stores and catalogues by entry point: what is set wrong, or missing, is said at the start and in words."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.catalogues.plugins import make_catalogue
from adapters.errors import (
    AdapterError,
    CatalogueRefused,
    GridStoreFull,
    GridStoreRefused,
    GridStoreUnavailable,
    NotInGridStore,
)
from adapters.grid_stores.adler32 import adler32_of, as_said
from adapters.grid_stores.local import LocalGridStore
from adapters.grid_stores.memory import DamagingGridStore, FlakyGridStore, MemoryGridStore
from adapters.grid_stores.names import copy_name
from adapters.grid_stores.plugins import make_grid_store
from adapters.grid_stores.xrootd_status import error_of
from broker.errors import ConfigError
from tests.entry_points import write_entry_points

NAME = copy_name("site-a/run-7.1", 1, "out")
URL = "root://se.example.org//grid"
RUCIO = {"kind": "rucio", "url": "https://r.example.org", "account": "a", "username": "u", "scope": "s", "rse": "R"}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the entry points that ``setup.cfg`` names on the path, whatever version is installed."""
    monkeypatch.syspath_prepend(str(write_entry_points(tmp_path / "packages")))
    for variable in ("X509_USER_PROXY", "BEARER_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)


def test_a_table_of_settings_makes_the_store_that_it_names(tmp_path: Path) -> None:
    assert isinstance(make_grid_store({"kind": "local", "directory": str(tmp_path)}), LocalGridStore)
    assert type(make_grid_store({"kind": "xrootd", "url": URL})).__name__ == "XrootdStore"


def test_a_table_of_settings_makes_the_catalogue_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")

    made = make_catalogue(RUCIO | {"secret_file": str(tmp_path / "secret")})

    assert type(made).__name__ == "RucioCatalogue"
    made.close()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "dcap"}, "grid_store.kind = 'dcap': must be a grid store that is installed: local, xrootd"),
        ({"kind": "local", "directory": "here"}, "grid_store.directory = 'here': must be an absolute path"),
        ({"kind": "xrootd", "url": "http://a/b"}, "grid_store.url = 'http://a/b': must be root://HOST[:PORT]//PATH"),
        ({"kind": "xrootd", "url": "root://a/b"}, "grid_store.url = 'root://a/b': must be root://HOST[:PORT]//PATH"),
        ({"kind": "xrootd", "timeout_s": 0}, "grid_store.timeout_s = 0: must be"),
        ({"kind": "xrootd", "tokn": "x"}, "grid_store.tokn: the grid store xrootd has no such setting: did you"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_is_allowed(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_grid_store(table)

    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("setting", "variable"), [("proxy", "X509_USER_PROXY"), ("token", "BEARER_TOKEN_FILE")])
def test_what_xrootd_logs_in_with_is_looked_at_and_put_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, variable: str
) -> None:
    file = tmp_path / "credential"
    table = {"kind": "xrootd", "url": URL, setting: str(file)}
    monkeypatch.setenv(variable, "")

    with pytest.raises(
        GridStoreRefused, match=f"/credential', which the setting {setting} names, cannot be read: No such"
    ):
        make_grid_store(table)
    file.touch()
    with pytest.raises(GridStoreRefused, match=f"/credential', which the setting {setting} names, is empty"):
        make_grid_store(table)
    assert os.environ[variable] == ""
    file.write_text("x")
    make_grid_store(table)
    assert os.environ[variable] == str(file)
    make_grid_store(table)
    with pytest.raises(GridStoreRefused, match="one process has one"):
        make_grid_store(table | {setting: "/elsewhere"})


def test_what_the_environment_names_must_be_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X509_USER_PROXY", "/nowhere/proxy")

    with pytest.raises(GridStoreRefused, match="'/nowhere/proxy', which X509_USER_PROXY names, cannot be read"):
        make_grid_store({"kind": "xrootd", "url": URL})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "secret_file must be set"),
        ({"secret_file": "/nowhere"}, "secret_file = '/nowhere': cannot be read"),
        ({"secret_file": "/dev/null"}, "secret_file = '/dev/null': is empty"),
        ({"secret_file": "/etc/hostname", "ca": "/nowhere"}, "ca = '/nowhere': cannot be read"),
        ({"secret_file": "/etc/hostname", "url": "http://r.example.org"}, "must be https://"),
        ({"secret_file": "/etc/hostname", "auth_url": "http://localhost.example.org"}, "must be https://"),
        ({"secret_file": "/etc/hostname", "username": "", "rse": ""}, "rse, username must be set"),
    ],
)
def test_what_a_catalogue_lacks_is_said_at_the_start(change: dict[str, str], said: str) -> None:
    with pytest.raises(CatalogueRefused, match=said):
        make_catalogue(RUCIO | change)


@pytest.mark.parametrize(
    ("package", "make", "said"),
    [
        ("XRootD", lambda: make_grid_store({"kind": "xrootd", "url": URL}), r"pip install 'volunteer-cloud\[xrootd\]'"),
        ("httpx", lambda: make_catalogue(RUCIO | {"secret_file": __file__}), r"pip install 'volunteer-cloud\[rucio\]'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, make: Callable[[], object], said: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package or name.endswith(("xrootd_store", "rucio_catalogue")):
            raise ModuleNotFoundError(f"No module named {package!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises((GridStoreRefused, CatalogueRefused), match=f"No module named '{package}'.*{said}"):
        make()


def status(code: int, number: int, message: str) -> Any:
    return SimpleNamespace(code=code, errno=number, message=message)


@pytest.mark.parametrize(
    ("code", "number", "message", "kind"),
    [
        (400, 3009, "no space left on device", GridStoreFull),
        (400, 3021, "quota exceeded", GridStoreFull),
        (400, 3011, "no such file", NotInGridStore),
        (400, 3010, "not authorized", GridStoreRefused),
        (400, 3025, "read-only file system", GridStoreRefused),
        (400, 3030, "authentication failed", GridStoreRefused),
        (400, 3005, "Unable to create /x; file path marked read/only", GridStoreRefused),
        (400, 3005, "Unable to read; unknown error", GridStoreUnavailable),
        (400, 3007, "I/O error", GridStoreUnavailable),
        (400, 3024, "overloaded", GridStoreUnavailable),
        (400, 9999, "news", GridStoreUnavailable),
        (108, 0, "Connection error", GridStoreUnavailable),
        (204, 0, "Auth failed", GridStoreRefused),
        (206, 0, "Operation expired", GridStoreUnavailable),
    ],
)
def test_what_xrootd_says_becomes_what_the_caller_can_do(
    code: int, number: int, message: str, kind: type[AdapterError]
) -> None:
    error = error_of(status(code, number, f"[ERROR] {message}\x1b (destination)\n"), "root://a")

    assert type(error) is kind
    assert str(error).startswith(f"grid store root://a: [ERROR] {message}\\x1b")
    assert "(destination)" not in str(error)


@pytest.mark.parametrize(("said", "meant"), [("1", "00000001"), ("0xABC", "00000abc"), (" 0badcafe\n", "0badcafe")])
def test_a_checksum_may_be_said_with_fewer_digits(said: str, meant: str) -> None:
    assert as_said(said) == meant


@pytest.mark.parametrize("said", ["", "nonsense", "123456789", "-1", "unknown"])
def test_what_is_no_checksum_is_none(said: str) -> None:
    assert as_said(said) is None


def test_the_checksum_is_that_of_the_standard() -> None:
    assert adler32_of([b"Wiki", b"", b"pedia"]) == "11e60398"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"content")
    return path


def test_a_store_in_memory_can_damage_what_it_keeps(local: Path) -> None:
    sound, damaging = MemoryGridStore(), DamagingGridStore(times=1)
    for store in (sound, damaging):
        store.put(local, NAME)

    assert damaging.stat(NAME).size == sound.stat(NAME).size
    assert damaging.stat(NAME).adler32 != sound.stat(NAME).adler32
    damaging.put(local, NAME)
    assert damaging.stat(NAME) == sound.stat(NAME)


def test_a_store_in_memory_can_be_away_for_a_while_or_in_trouble_for_long(local: Path) -> None:
    flaky, troubled = FlakyGridStore(times=1), MemoryGridStore()
    with pytest.raises(GridStoreUnavailable):
        flaky.put(local, NAME)
    flaky.put(local, NAME)

    troubled.trouble = GridStoreFull("grid store memory://grid: full")
    for ask in (troubled.try_out, lambda: troubled.put(local, NAME), lambda: troubled.stat(NAME)):
        with pytest.raises(GridStoreFull):
            ask()

    assert flaky.calls == [("put", NAME), ("put", NAME)]
    assert troubled.files == {}
