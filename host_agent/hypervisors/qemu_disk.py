"""A VM's own disk: a qcow2 overlay, made by qemu-img, over the image's disk, which is never written to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from host_agent.errors import HypervisorError

_MIB = 1024 * 1024


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


async def run(program: str, *arguments: str) -> bytes:
    """Run a short-lived program and return what it prints; raise HypervisorError with its complaint."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise HypervisorError(f"{program} is not installed: on Debian, qemu-system-x86 and qemu-utils") from error
    output, complaint = await process.communicate()
    if process.returncode != 0:
        raise HypervisorError(f"{program} {arguments[0]} failed: {complaint.decode(errors='replace').strip()}")
    return output
