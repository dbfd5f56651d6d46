"""A VM's own disk: a qcow2 overlay, made by qemu-img, over the image's disk, which is never written to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.detached import environment_of
from host_agent.hypervisors.vm_account import VmAccount, of_process

#: Such programs take tenths of a second; a disk that hangs must not hold up more than one VM.
RUN_TIMEOUT_S = 60.0
#: A process that does not end after SIGKILL is stuck in the kernel; it is left alone after this.
KILL_PATIENCE_S = 2.0
_MIB = 1024 * 1024
_NO_ROOM = os.strerror(errno.ENOSPC).encode()


async def create_overlay(overlay: Path, base: Path, size_mib: int) -> None:
    """Make ``overlay``. Raises HypervisorError if the base is no plain qcow2 or larger than ``size_mib``."""
    found = json.loads(await run("qemu-img", "info", "-f", "qcow2", "--output=json", str(base)))
    _check_base(base, found, size_mib)
    await run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(overlay), f"{size_mib}M")


def _check_base(base: Path, found: dict[str, Any], size_mib: int) -> None:
    # Such a disk would show the guest a file of the host.
    details = found.get("format-specific", {}).get("data", {})
    if "backing-filename" in found or "data-file" in details:
        raise HypervisorError(f"{base} refers to another file; use an image that is complete")
    if found["virtual-size"] > size_mib * _MIB:
        least = -(-found["virtual-size"] // _MIB)
        raise HypervisorError(f"disk_mib {size_mib} is less than the {least} MiB of the image's disk")


async def run(program: str, *arguments: str, directory: Path | None = None, account: VmAccount | None = None) -> bytes:
    """Run a short-lived program and return what it prints; raise HypervisorError with its complaint, or when it hangs.

    Full disks are HostDiskFull. It inherits a short list, and the mark of the VM whose ``directory`` it runs in. What
    reads what a QEMU has written runs as the ``account`` of that QEMU.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=directory,
            env=environment_of(directory),
            **of_process(account),
        )
    except FileNotFoundError as error:
        raise HypervisorError(f"{program} is not installed: on Debian, qemu-system-x86 and qemu-utils") from error
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise HypervisorError(f"{program} {arguments[0]} did not end within {RUN_TIMEOUT_S} s") from error
    finally:
        await put_down(process)
    if process.returncode != 0:
        text = f"{program} {arguments[0]} failed: {complaint.decode(errors='replace').strip()}"
        raise HostDiskFull(text) if _NO_ROOM in complaint else HypervisorError(text)
    return output


async def put_down(process: asyncio.subprocess.Process) -> None:
    """Kill a program if it still runs, and wait for its end, but not for ever: a driver of the kernel may hold it."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_PATIENCE_S):
            await process.wait()
