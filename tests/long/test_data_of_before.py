"""A data directory that an earlier commit has left: this one comes up with it, and what was under way ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.node import find_server
from schemas.ledger import JobState
from tests.system.running import FAST, until
from volcloud import Client

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(1800)]

HERE = Path(__file__).parents[2]
#: The last commit before verbs had snapshots, hosts limits and guests a clock that is set.
BEFORE = "7172f5a48c54d1486c3e46100e3b1cca3d29564f"
VM = "worker-1"
WAIT = "while [ ! -e /run/gate ]; do sleep 0.1; done; echo done > out"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of that commit."""
    tree = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "-C", HERE, "archive", BEFORE], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the history of this checkout does not reach back to {BEFORE[:7]}")
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
    return tree


@pytest.fixture
def data(before: Path, tmp_path: Path) -> Iterator[Path]:
    find_server()
    yield tmp_path / "data"
    volcloud(HERE, tmp_path / "data", "down")
    shutil.rmtree(tmp_path / "data")


def volcloud(tree: Path, data: Path, *words: str, patience_s: float = 600.0) -> str:
    """Run a command with the sources of ``tree``."""
    command = [sys.executable, "-m", "volcloud.main", *words, "--data", str(data)]
    cache = {"VOLCLOUD_CACHE": str(data.parent / "cache")} if tree != HERE else {}
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"} | cache
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=patience_s)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_vm_that_was_saved_then_loads_now_and_the_job_in_it_ends(before: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        json.dumps({"id": "j", "executable": "/bin/sh", "arguments": ["-c", WAIT], "outputs": [{"name": "out"}]})
    )
    volcloud(before, data, "up", "--hypervisor", "qemu", "--vms", "1", "--detach", *FAST)
    volcloud(before, data, "job", "submit", str(tmp_path / "job.json"))
    until(lambda: "running" in volcloud(before, data, "job", "show", "j.1"), "the job runs", 120)
    volcloud(before, data, "vm", "savestate", VM)
    volcloud(before, data, "down")

    volcloud(HERE, data, "up", "--detach")
    with Client.connect(data) as client:
        (row,) = client.vms.list(VM)
        assert row.status.state == "saved"
        client.vms.start(VM)
        until(lambda: client.vms.get(VM).agent_ready, "the agent that was saved is ready", 120)
        client.execs.run(VM, ["touch", "/run/gate"])
        until(lambda: client.jobs.show("j.1").job.state == JobState.DONE, "the job is done", 120)
        assert client.jobs.show("j.1").job.attempt == 1
        client.vms.take_snapshot(VM, "since")
        client.vms.restore_snapshot(VM, "since")
        until(lambda: client.vms.get(VM).agent_ready, "the agent is ready after it", 120)
    volcloud(HERE, data, "job", "fetch", "j.1", "-o", str(tmp_path / "fetched"))
    assert next((tmp_path / "fetched").rglob("out")).read_text() == "done\n"
