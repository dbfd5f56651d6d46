"""What relays are told that cannot read the host's credential: where the broker is, and nothing else of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.address import Address, write_address
from host_agent.hypervisors.qemu import account_relays
from host_agent.hypervisors.qemu.account_relays import PROGRAM, WHEREABOUTS, equip, keep_told
from host_agent.hypervisors.qemu.command import MOST_RELAYS, RELAY_PLACE, MachineCommand
from host_agent.hypervisors.qemu.relays import carried
from host_agent.relay import read_endpoints
from schemas.endpoints import Endpoint
from tests.contract.conftest import eventually


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_relays, "_LOOK_INTERVAL_S", 0.01)


def say_where(path: Path, port: int) -> None:
    write_address(path, Address(endpoints=(Endpoint("127.0.0.1", port),), user="host-a", password="hush", owner=7))


@asynccontextmanager
async def kept(home: Path, credential: Path) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_told(home, credential))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_they_are_told_endpoints_and_owner_and_no_password(tmp_path: Path) -> None:
    say_where(tmp_path / "credential", 5672)

    equip(tmp_path, tmp_path / "credential")

    assert read_endpoints(str(tmp_path / WHEREABOUTS)) == ([("127.0.0.1", 5672)], 7)
    assert set(json.loads((tmp_path / WHEREABOUTS).read_text())) == {"endpoints", "owner"}
    assert (tmp_path / WHEREABOUTS).stat().st_mode & 0o777 == 0o644
    assert "__main__.py" in zipfile.ZipFile(tmp_path / PROGRAM).namelist()


def test_what_an_account_writes_as_its_counts_fits_into_what_is_told(tmp_path: Path) -> None:
    for n in range(MOST_RELAYS):
        (tmp_path / f"{RELAY_PLACE}{n}").write_bytes(b"\xff" * 16)

    assert carried(tmp_path, MachineCommand("tcg", [f"<>{RELAY_PLACE}0"])) == (1 << 53, 1 << 53)


async def test_one_that_was_not_there_at_the_start_is_told_once_it_is(tmp_path: Path) -> None:
    credential = tmp_path / "credential"
    equip(tmp_path, credential)

    async with kept(tmp_path, credential):
        say_where(credential, 1234)
        await eventually((tmp_path / WHEREABOUTS).exists)

    assert read_endpoints(str(tmp_path / WHEREABOUTS))[0] == [("127.0.0.1", 1234)]


async def test_a_damaged_one_leaves_what_was_told_and_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credential = tmp_path / "credential"
    say_where(credential, 1)
    equip(tmp_path, credential)

    with caplog.at_level(logging.WARNING):
        async with kept(tmp_path, credential):
            credential.write_text("{")
            await eventually(lambda: caplog.records)
            before = read_endpoints(str(tmp_path / WHEREABOUTS))[0]
            say_where(credential, 2)
            await eventually(lambda: read_endpoints(str(tmp_path / WHEREABOUTS))[0] == [("127.0.0.1", 2)])

    assert before == [("127.0.0.1", 1)]
    assert [str(credential) in record.getMessage() for record in caplog.records] == [True]


async def test_a_vm_whose_relays_look_for_themselves_is_given_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, credential, looks = tmp_path / "vm-a", tmp_path / "credential", []
    home.mkdir()
    say_where(credential, 1)
    look = account_relays._version
    monkeypatch.setattr(account_relays, "_version", lambda path: looks.append(path) or look(path))

    async with kept(home, credential):
        await eventually(lambda: len(looks) > 2)

    assert list(home.iterdir()) == []


def put_link(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(path.read_bytes())
    secret.chmod(0o600)
    path.unlink()
    path.symlink_to(secret)


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o644)


def put_other_content(path: Path) -> None:
    path.write_bytes(path.read_bytes().swapcase())


@pytest.mark.parametrize("put", [put_link, put_fifo, put_other_content, lambda path: path.chmod(0o600), Path.unlink])
@pytest.mark.parametrize("name", [PROGRAM, WHEREABOUTS])
def test_what_relays_are_shown_is_put_right_whatever_was_put_there(
    tmp_path: Path, put: Callable[[Path], object], name: str
) -> None:
    credential = tmp_path / "credential"
    say_where(credential, 5672)
    equip(tmp_path, credential)
    before = {one: (tmp_path / one).read_bytes() for one in (PROGRAM, WHEREABOUTS)}
    put(tmp_path / name)

    equip(tmp_path, credential)

    assert {one: (tmp_path / one).read_bytes() for one in before} == before
    assert not (tmp_path / name).is_symlink()
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "secret").exists() or (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_what_relays_are_shown_is_written_once_and_a_directory_in_its_place_costs_no_files(tmp_path: Path) -> None:
    credential = tmp_path / "credential"
    say_where(credential, 5672)
    equip(tmp_path, credential)
    written = [(tmp_path / one).stat().st_ino for one in (PROGRAM, WHEREABOUTS)]
    equip(tmp_path, credential)
    again = [(tmp_path / one).stat().st_ino for one in (PROGRAM, WHEREABOUTS)]
    (tmp_path / WHEREABOUTS).unlink()
    (tmp_path / WHEREABOUTS).mkdir()
    before = open_files()

    for _ in range(5):
        equip(tmp_path, credential)

    assert again == written
    assert open_files() <= before
