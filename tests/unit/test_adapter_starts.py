"""An adapter answers scrapes once it can work, and not before: who waits for a system takes an answer for that."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.config import JobAdapterConfig, StorageAdapterConfig
from adapters.errors import AdapterError
from adapters.job import adapter as job
from adapters.sources import adapter as source
from adapters.sources.config import SourceAdapterConfig
from adapters.storage import adapter as storage
from broker.address import Address
from broker.errors import ConfigError
from broker.ports import free_ports
from schemas.endpoints import Endpoint

Run = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
ADDRESS = Address(endpoints=(Endpoint(host="127.0.0.1", port=1),), user="adapter-x-1", password="x", vhost="vc")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """What all have; the ledger cannot be opened."""
    (tmp_path / "credential").write_bytes(msgspec.json.encode(ADDRESS))
    (port,) = free_ports("127.0.0.1", [0])
    store = f"file://{tmp_path}/store"
    common = {"credential": str(tmp_path / "credential"), "ledger": "nonsense://nowhere", "store": store}
    return common | {"metrics_port": port}


def demand_no_answer(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def run_source(settings: dict[str, Any], tmp_path: Path, **own: Any) -> Coroutine[Any, Any, None]:
    spool = {"kind": "spool", "directory": str(tmp_path / "spool")}
    staging = str(tmp_path / "staging")
    return source.run(SourceAdapterConfig(**{**settings, "name": "lyon", "source": spool, "staging": staging, **own}))


async def test_an_adapter_whose_ledger_cannot_be_opened_answers_no_scrape(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    for run in (
        job.run(JobAdapterConfig(**settings)),
        storage.run(StorageAdapterConfig(**settings, staging=str(tmp_path / "staging"))),
        run_source(settings, tmp_path),
    ):
        with pytest.raises((AdapterError, ConfigError, ValueError)):
            await run
        demand_no_answer(settings["metrics_port"])


@pytest.mark.parametrize(
    "own",
    [
        {"source": {"kind": "spool", "directory": ""}},
        {"grid_store": {"kind": "xrootd", "proxy": "/nowhere"}},
        {"catalogue": {"kind": "rucio", "secret_file": "/nowhere"}},
    ],
    ids=lambda own: next(iter(own)),
)
async def test_a_source_adapter_that_cannot_make_its_parts_answers_no_scrape(
    settings: dict[str, Any], tmp_path: Path, own: dict[str, Any]
) -> None:
    with pytest.raises((AdapterError, ConfigError)):
        await run_source(settings | {"ledger": f"sqlite:///{tmp_path}/ledger.db"}, tmp_path, **own)

    demand_no_answer(settings["metrics_port"])
