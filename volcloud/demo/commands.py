"""The foreign programs of the demo (pip, the generator, the merging), run so that an interruption ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from volcloud.errors import CommandFailed

#: A program that was asked to end and has not is killed after this, seconds.
PATIENCE_S = 5.0


async def run_python(arguments: Sequence[str], directory: Path) -> str:
    """Run this Python to its end and give its output. Raises CommandFailed with the end of what it said.

    Cancelled, it ends the program and what that started, and waits for it.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        await _end(process)
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise CommandFailed(f"python {' '.join(arguments[:3])} … ended with {process.returncode}:\n{text[-1500:]}")
    return text


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
