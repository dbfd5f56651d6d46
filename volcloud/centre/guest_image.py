"""The guest image that ``up`` boots: built into a cache of the user's, then linked into the host's store.

The build is a process of its own, so that it can be interrupted and cleans up after itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from host_agent.errors import HostError
from host_agent.images import MANIFEST, ImageStore
from volcloud.centre.layout import Layout, tail
from volcloud.centre.process_state import write_state
from volcloud.centre.stopping import Say
from volcloud.errors import CentreFailed

#: Names the cache directory where it is not the user's.
CACHE_VARIABLE = "VOLCLOUD_CACHE"
_PROCESS = "image_build"


def cache_directory() -> Path:
    """Give the directory for what can be made again."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "volcloud"


async def provide_image(layout: Layout, say: Say) -> str:
    """Build the image, or take it from the cache; put it in the host's store and give its id. Raises CentreFailed.

    Cancelled, it interrupts the build and waits until that has cleaned up.
    """
    cache = cache_directory()
    output = cache / "guest"
    command = ["-m", "deploy.image.build", "--output", str(output), "--cache", str(cache)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    write_state(layout.record(_PROCESS), _PROCESS, process.pid)
    try:
        await _relay(process, layout.log(_PROCESS), say)
    finally:
        await _interrupt(process)
        layout.record(_PROCESS).unlink(missing_ok=True)
    if process.returncode != 0:
        log = layout.log(_PROCESS)
        raise CentreFailed(
            f"the guest image could not be built:\n{tail(log)}", f"see {log}, or use --hypervisor process"
        )
    try:
        return await asyncio.to_thread(ImageStore(layout.host / "images", None).add, output / MANIFEST)
    except HostError as error:
        raise CentreFailed(f"the guest image cannot be used: {error}", f"remove {output} and start again") from error


async def _relay(process: asyncio.subprocess.Process, log: Path, say: Say) -> None:
    """Pass on what the build says, and keep it."""
    with log.open("wb") as file:
        while process.stderr is not None and (line := await process.stderr.readline()):
            file.write(line)
            file.flush()
            say(f"image: {line.decode(errors='replace').strip().rpartition('] ')[2]}")
    await process.wait()


async def _interrupt(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGINT)
        await process.wait()
