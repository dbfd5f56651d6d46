"""Snapshots in QEMU: its jobs that save, load and remove one, and qemu-img's removal where no QEMU runs.

The memory goes into a file of its own beside the overlay, which is joined to QEMU for as long as the job takes: what a
save that failed has written is gone with that file, in the overlay nothing would free it. QEMU stands still during such
a job and answers nobody.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from broker import reserve
from host_agent.errors import HostDiskFull, HypervisorError, naming_disk
from host_agent.hypervisors.qemu.accounts import account_of, give
from host_agent.hypervisors.qemu.command import OVERLAY
from host_agent.hypervisors.qemu.disk import run
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, SnapshotRecords
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.memory import LEAST_ROOM_BYTES, MEMORY_TIMEOUT_S

log = logging.getLogger(__name__)

#: Between two looks at a job, which takes 0.2 s for a small guest.
_LOOK_INTERVAL_S = 0.02
#: The overlay's node, as the command line names it.
_ROOT = "root"
#: What a file for a memory holds beside it: a guest's disk of no use, which qcow2 demands.
_NO_DISK = "1M"
#: The overlay, for qemu-img in its directory, without the image that it lies over.
_ALONE = "json:" + json.dumps({"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": OVERLAY}})
#: Our jobs' ids begin so.
_JOB = "snapshot-"
#: What qemu-img may take for one VM, and again for a check of its overlay, which is read as a whole for that, seconds.
_AT_REST_TIMEOUT_S = 20.0


class _Job(msgspec.Struct):
    """One of what ``query-jobs`` answers."""

    id: str
    status: str
    error: str = ""


class _BlockNode(msgspec.Struct, rename="kebab"):
    """One of what ``query-named-block-nodes`` answers."""

    node_name: str = ""


async def save(machine: QemuMachine, snapshot: KeptSnapshot) -> None:
    """Have QEMU write a snapshot; the guest is then as it was. Raises HypervisorError, HostDiskFull."""
    memory = machine.home / snapshot.memory
    await run("qemu-img", "create", "-q", "-f", "qcow2", str(memory), _NO_DISK)
    memory.chmod(0o600)
    if account := account_of(machine.home):
        give(memory, account.uid)
    await _join(machine, snapshot)
    await _run_job(machine, "snapshot-save", snapshot, [_ROOT, _node(snapshot)], vmstate=_node(snapshot))
    await _part(machine, snapshot)


async def load(machine: QemuMachine, snapshot: KeptSnapshot) -> None:
    """Have a QEMU that is paused take on a snapshot; it is paused afterwards. Raises HypervisorError."""
    await _join(machine, snapshot)
    await _run_job(machine, "snapshot-load", snapshot, [_ROOT, _node(snapshot)], vmstate=_node(snapshot))
    await _part(machine, snapshot)


async def clean(home: Path, machine: QemuMachine | None) -> None:
    """Remove what is void of a VM, whose QEMU runs or has none. Raises nothing: what is left is found the next time."""
    try:
        with naming_disk("snapshots not cleaned up"):
            await (clean_at_rest(home) if machine is None or machine.watch.has_ended else clean_live(machine))
    except Exception as error:  # noqa: BLE001  whatever a broken QEMU has left there is its VM's trouble alone
        log.warning("snapshots_not_cleaned vm=%s error=%s", home.name, error)


async def clean_live(machine: QemuMachine) -> None:
    """Remove what is void of a VM whose QEMU runs, also what an agent before us has left at work there.

    Raises HypervisorError, OSError; what is left then is found the next time.
    """
    records = SnapshotRecords(machine.home)
    for snapshot in records.voids():
        await _end_jobs(machine, snapshot)
        if _node(snapshot) in await _nodes(machine):
            await _part(machine, snapshot)
        records.drop_memory(snapshot)
        await _run_job(machine, "snapshot-delete", snapshot, [_ROOT])
        records.forget(snapshot)


async def clean_at_rest(home: Path, whole: KeptSnapshot | None = None) -> None:
    """Remove what is void of a VM that has no process, and, where anything but ``whole`` is, what a QEMU that was
    killed has left in its overlay: once, and no longer than it may take.

    Raises HypervisorError, OSError; what is void then is found the next time.
    """
    records = SnapshotRecords(home)
    voids = records.voids()
    for snapshot in voids:
        records.drop_memory(snapshot)
    if not voids:
        return
    try:
        async with asyncio.timeout(_AT_REST_TIMEOUT_S):
            await _remove(home, voids)
    except TimeoutError as error:
        raise HypervisorError(f"{home / OVERLAY} is not freed of old snapshots: qemu-img takes too long") from error
    if any(snapshot != whole for snapshot in voids):
        await _free_leaks(home)
    for snapshot in voids:
        records.forget(snapshot)


async def _remove(home: Path, voids: list[KeptSnapshot]) -> None:
    qemu_img = _qemu_img_at(home)
    tags = await _tags(qemu_img)
    for snapshot in voids:
        if snapshot.tag in tags:
            await qemu_img("snapshot", "-d", snapshot.tag, _ALONE)


async def _free_leaks(home: Path) -> None:
    """Free clusters that a killed QEMU had taken and not yet used; such a check changes nothing else, and what it does
    not free is room and nothing more."""
    try:
        async with asyncio.timeout(_AT_REST_TIMEOUT_S):
            await _qemu_img_at(home)("check", "-q", "-r", "leaks", _ALONE)
    except (TimeoutError, HypervisorError) as error:
        why = str(error) or f"qemu-img check takes longer than {_AT_REST_TIMEOUT_S:g} s"
        log.warning("overlay_not_checked vm=%s error=%s", home.name, why)


def _qemu_img_at(home: Path) -> Callable[..., Awaitable[bytes]]:
    """Give what runs qemu-img in a VM's directory as the VM's account: a QEMU that was broken into may have made of the
    overlay what refers to any file of the host."""
    return functools.partial(run, "qemu-img", directory=home, account=account_of(home))


async def _tags(qemu_img: Callable[..., Awaitable[bytes]]) -> list[str]:
    listed = (await qemu_img("snapshot", "-l", _ALONE)).decode(errors="replace").splitlines()
    return [words[1] for words in map(str.split, listed) if len(words) > 1]


async def _run_job(machine: QemuMachine, kind: str, snapshot: KeptSnapshot, devices: list[str], **more: str) -> None:
    job = f"{_JOB}{kind.removeprefix('snapshot-')}-{snapshot.tag}"
    order: dict[str, object] = {"job-id": job, "tag": snapshot.tag, "devices": devices, **more}
    await machine.monitor.execute(kind, order, timeout_s=MEMORY_TIMEOUT_S)
    failed = await _wait(machine, job)
    if failed:
        raise _failure(machine, kind, failed)


async def _wait(machine: QemuMachine, job: str) -> str:
    """Wait for a job and let go of it; give why it failed, empty if it did not."""
    deadline = time.monotonic() + MEMORY_TIMEOUT_S
    while time.monotonic() < deadline:
        found = await _job(machine, job)
        if found is None:
            return "QEMU has lost it"
        if found.status == "concluded":
            await machine.monitor.execute("job-dismiss", {"id": job})
            return found.error
        await asyncio.sleep(_LOOK_INTERVAL_S)
    raise HypervisorError(f"{job} took longer than {MEMORY_TIMEOUT_S} s")


async def _job(machine: QemuMachine, job: str) -> _Job | None:
    return next((one for one in await _jobs(machine) if one.id == job), None)


async def _jobs(machine: QemuMachine) -> list[_Job]:
    # It answers when the job that it is at has ended.
    found = await machine.monitor.ask("query-jobs", list[_Job], timeout_s=MEMORY_TIMEOUT_S)
    return [one for one in found if one.id.startswith(_JOB)]


async def _end_jobs(machine: QemuMachine, snapshot: KeptSnapshot) -> None:
    for job in await _jobs(machine):
        if job.id.endswith(snapshot.tag):
            await _wait(machine, job.id)


def _failure(machine: QemuMachine, kind: str, why: str) -> HypervisorError:
    """Say why a job failed. QEMU says little of a full disk, so that one is asked."""
    if reserve.look(machine.home).free < LEAST_ROOM_BYTES or os.strerror(errno.ENOSPC) in why:
        after = "; the VM goes on as it was" if kind == "snapshot-save" else ""
        text = f"{machine.home}: {os.strerror(errno.ENOSPC)}; free some space there, then again{after}"
        return HostDiskFull(text)
    return HypervisorError(f"QEMU failed at {kind}: {why}")


def _node(snapshot: KeptSnapshot) -> str:
    return f"memory-{snapshot.tag}"


async def _nodes(machine: QemuMachine) -> list[str]:
    found = await machine.monitor.ask("query-named-block-nodes", list[_BlockNode], {"flat": True})
    return [node.node_name for node in found]


async def _join(machine: QemuMachine, snapshot: KeptSnapshot) -> None:
    file = {"driver": "file", "filename": snapshot.memory}
    await machine.monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": _node(snapshot), "file": file})


async def _part(machine: QemuMachine, snapshot: KeptSnapshot) -> None:
    await machine.monitor.execute("blockdev-del", {"node-name": _node(snapshot)}, timeout_s=MEMORY_TIMEOUT_S)
