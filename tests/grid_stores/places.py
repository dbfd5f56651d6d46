"""Grid stores for the tests of the contract, each with a way to look at what it has behind its back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapters.grid_stores.contract import GridStore
from adapters.grid_stores.local import LocalGridSettings, LocalGridStore
from adapters.grid_stores.memory import MemoryGridStore
from adapters.grid_stores.xrootd import XrootdSettings, make_xrootd
from tests.grid_stores.xrootd_peer import XrootdPeer


class Place:
    """A store, and what is in it: ``look`` gives a file's bytes or None, ``names`` all that there is."""

    def __init__(self, store: GridStore, look: Callable[[str], bytes | None], names: Callable[[], list[str]]) -> None:
        self.store, self.look, self.names = store, look, names


def in_memory() -> Place:
    store = MemoryGridStore()
    return Place(store, store.files.get, lambda: sorted(store.files))


def in_directory(directory: Path) -> Place:
    directory.mkdir(exist_ok=True)
    store = LocalGridStore(LocalGridSettings(directory=str(directory), timeout_s=30))
    return Place(store, lambda name: _bytes(directory / name), lambda: _files(directory))


def at_server(peer: XrootdPeer, timeout_s: int = 30) -> Place:
    store = make_xrootd(XrootdSettings(url=peer.url, timeout_s=timeout_s))
    return Place(store, lambda name: _bytes(peer.path(name)), lambda: _files(peer.path("")))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
