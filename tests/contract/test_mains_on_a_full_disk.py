"""Every program of ours whose directory is on a disk that is really full: it ends with a sentence, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from broker.address import Address, write_address
from broker.node import NodeAddress, find_server
from schemas.endpoints import Endpoint
from schemas.seed import Seed, encode_seed
from volcloud.centre.plan import Plan

NOWHERE = Address(endpoints=(Endpoint("127.0.0.1", 9),), user="adapter-job-1", password="x", vhost="/")
NODE = NodeAddress(
    host="127.0.0.1", amqp_port=9, management_port=9, prometheus_port=9, admin_user="a", admin_password="b"
)
#: How long a program may take to find out, seconds.
PATIENCE_S = 90


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 12 KiB: three small files."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    with (place / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free)


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "VOLCLOUD_CACHE": str(tmp_path / "cache")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def assert_sentence(place: Path, done: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    said = done.stdout + done.stderr
    logs = "".join(path.read_text(errors="replace") for path in place.rglob("*.log"))
    assert done.returncode in (1, 3), said
    assert "Traceback" not in said + logs, said + logs
    assert "full" in said or "No space left on device" in said, said
    assert not list(tmp_path.glob("state/**/crash-*")), "it was not foreseen"


def toml(path: Path, **values: str | int | list[str]) -> Path:
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items()).replace("'", '"'))
    return path


Prepare = Callable[[Path, Path], list[str]]


def host_agent(tmp_path: Path, place: Path) -> list[str]:
    write_address(tmp_path / "credential.json", NOWHERE)
    config = toml(
        tmp_path / "c.toml",
        credential=str(tmp_path / "credential.json"),
        directory=str(place / "host"),
        **{"hypervisor.kind": "process"},
    )
    return ["host_agent.main", "--config", str(config)]


def key_manager(tmp_path: Path, place: Path) -> list[str]:
    (tmp_path / "administration.json").write_bytes(msgspec.json.encode(NODE.administration))
    config = toml(tmp_path / "c.toml", administrator=str(tmp_path / "administration.json"), directory=str(place))
    return ["broker.keys.main", "--config", str(config)]


def job_adapter(tmp_path: Path, place: Path) -> list[str]:
    write_address(tmp_path / "credential.json", NOWHERE)
    config = toml(
        tmp_path / "c.toml",
        credential=str(tmp_path / "credential.json"),
        ledger=f"sqlite:///{place}/ledger.db",
        store=f"file://{place}/store",
    )
    return ["adapters.job.main", "--config", str(config)]


def storage_adapter(tmp_path: Path, place: Path) -> list[str]:
    words = job_adapter(tmp_path, place)
    with (tmp_path / "c.toml").open("a") as file:
        file.write(f'staging = "{place}/staging"\n')
    return ["adapters.storage.main", *words[1:]]


def guest_agent(tmp_path: Path, place: Path) -> list[str]:
    seed = Seed(
        vm="vm-a", name="a", generation=1, endpoints=(Endpoint("127.0.0.1", 9),), vhost="/", login_user="once-a",
        login_password="x",
    )  # fmt: skip
    (tmp_path / "seed").write_bytes(encode_seed(seed))
    return ["guest_agent.main", "--seed", str(tmp_path / "seed"), "--state-dir", str(place / "guest")]


def demo(tmp_path: Path, place: Path) -> list[str]:
    return ["volcloud.demo", "--hypervisor", "process", "--directory", str(place / "demo")]


def up(tmp_path: Path, place: Path) -> list[str]:
    return ["volcloud.main", "up", "--hypervisor", "process", "--vms", "1", "--data", str(place / "data")]


def up_detached(tmp_path: Path, place: Path) -> list[str]:
    return [*up(tmp_path, place), "--detach"]


def supervisor(tmp_path: Path, place: Path) -> list[str]:
    plan = tmp_path / "plan.json"
    plan.write_bytes(msgspec.json.encode(Plan(data=str(place / "data"), hypervisor="process", vms=1)))
    return ["volcloud.centre.main", "--plan", str(plan), "--report", "2"]


DAEMONS: list[Prepare] = [host_agent, guest_agent, key_manager, job_adapter, storage_adapter]
COMMANDS: list[Prepare] = [demo, up, up_detached, supervisor]


@pytest.mark.parametrize("prepare", [*DAEMONS, *COMMANDS], ids=lambda prepare: prepare.__name__)
def test_on_a_disk_that_is_full_it_ends_with_a_sentence(tmp_path: Path, small: Path, prepare: Prepare) -> None:
    find_server()
    words = prepare(tmp_path, small)
    fill(small)

    assert_sentence(small, run(tmp_path, *words), tmp_path)


@pytest.mark.parametrize("prepare", [up, up_detached], ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize("room_kib", [4, 8, 12, 16, 24])
def test_a_system_on_a_disk_that_fills_while_it_comes_up_ends_with_a_sentence(
    tmp_path: Path, small: Path, prepare: Prepare, room_kib: int
) -> None:
    """Wherever it is in the starting: the settings, the plan, the supervisor's record, the names."""
    find_server()
    subprocess.run(["mount", "-o", f"remount,size={room_kib}k", str(small)], check=True)

    assert_sentence(small, run(tmp_path, *prepare(tmp_path, small)), tmp_path)
