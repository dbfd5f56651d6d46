"""What is void of a VM without a process: it is removed by qemu-img, and its overlay is checked once, after a crash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.directory import VmMarker, write_record
from host_agent.hypervisors.qemu import snapshot_jobs
from host_agent.hypervisors.qemu.command import OVERLAY, MachineCommand
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, SnapshotRecords
from host_agent.hypervisors.qemu.snapshots import QemuSnapshots

pytestmark = pytest.mark.qemu

#: Is qemu-img, notes what it is told, and hangs at a check.
SLOW = """#!/bin/sh
echo "$1" >> {notes}
[ "$1" = check ] && exec sleep 600
exec {real} "$@"
"""


class Home:
    """A VM's directory with an overlay, and a qemu-img of which a check takes for ever."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = directory / "vm-a"
        self.path.mkdir()
        self.records = SnapshotRecords(self.path)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.path / OVERLAY, "4M"], check=True)
        self._notes, tools = directory / "notes", directory / "bin"
        tools.mkdir()
        (tools / "qemu-img").write_text(SLOW.format(notes=self._notes, real=shutil.which("qemu-img")))
        (tools / "qemu-img").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        monkeypatch.setattr(snapshot_jobs, "_AT_REST_TIMEOUT_S", 5.0)

    def take(self, name: str) -> KeptSnapshot:
        tag = f"tag-{name}"
        subprocess.run(["qemu-img", "snapshot", "-c", tag, self.path / OVERLAY], check=True)
        command = MachineCommand(accelerator="tcg", arguments=[])
        snapshot = KeptSnapshot(name=name, tag=tag, taken_ms=1, was_running=True, command=command)
        (self.path / snapshot.memory).touch()
        self.records.begin(snapshot)
        return snapshot

    def asked(self) -> list[str]:
        asked = self._notes.read_text().split() if self._notes.exists() else []
        self._notes.unlink(missing_ok=True)
        return asked

    def tags(self) -> str:
        listed = subprocess.run(["qemu-img", "snapshot", "-l", self.path / OVERLAY], capture_output=True, check=True)
        self.asked()
        return listed.stdout.decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


async def test_after_a_crash_an_overlay_is_checked_once_however_long_that_takes(home: Home) -> None:
    home.take("s1")
    home.asked()

    await snapshot_jobs.clean(home.path, None)
    first = home.asked()
    await snapshot_jobs.clean(home.path, None)

    assert first.count("check") == 1
    assert (home.asked(), home.records.voids()) == ([], [])
    assert "tag-s1" not in home.tags()


async def test_one_that_is_deleted_leaves_no_doubt_and_nothing_is_checked(home: Home) -> None:
    snapshot = home.take("s1")
    home.records.complete(snapshot)
    home.asked()

    await snapshot_jobs.clean_at_rest(home.path, home.records.make_void("s1"))

    assert "check" not in home.asked()
    assert home.records.voids() == []
    assert "tag-s1" not in home.tags()


async def test_memories_and_what_an_overlay_holds_beyond_its_disk_are_kept_bytes(home: Home) -> None:
    files = QemuFiles(home.path.parent, "qemu")
    spec = VmSpec(id="vm-a", name="a", cpus=1, memory_mib=64, disk_mib=1, image=None, broker="")
    write_record(home.path / "vm.json", VmMarker("qemu", 1, spec))
    before = await QemuSnapshots(lambda vm: cast(Any, None), files).kept_bytes("vm-a")
    for name in ("memory", "memory-s1.qcow2"):
        (home.path / name).write_bytes(b"m" * (1 << 20))
    (home.path / OVERLAY).write_bytes(b"o" * (3 << 20))

    after = await QemuSnapshots(lambda vm: cast(Any, None), files).kept_bytes("vm-a")

    assert before == 0
    assert after == 4 << 20
