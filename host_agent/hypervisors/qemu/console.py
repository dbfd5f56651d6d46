"""What a guest prints on its serial console, taken out of QEMU's socket and kept within the log's bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import NoReturn

from broker.road.streams import short_path
from host_agent.hypervisors.kept_log import KeptLog
from host_agent.hypervisors.qemu.command import CONSOLE, CONSOLE_SOCKET

log = logging.getLogger(__name__)

#: It is taken in blocks of this size with this pause, so that a guest that prints for ever costs little.
_BLOCK_BYTES, _PAUSE_S = 64 * 1024, 0.02


async def keep_console(home: Path) -> NoReturn:
    """Keep what the guest in ``home`` prints; until cancelled. What does not fit on the disk is lost."""
    console = KeptLog(home / CONSOLE)
    while True:
        try:
            with short_path(home / CONSOLE_SOCKET) as path:
                reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                while printed := await reader.read(_BLOCK_BYTES):
                    await _keep(console, printed, home.name)
        except OSError as error:
            log.debug("console_not_connected vm=%s error=%s", home.name, error)
        await asyncio.sleep(_PAUSE_S)


async def _keep(console: KeptLog, printed: bytes, vm: str) -> None:
    try:
        await asyncio.to_thread(console.write, printed)
    except OSError as error:
        # The guest goes on: what it prints is no reason to hold it up.
        log.debug("console_not_kept vm=%s error=%s", vm, error)
    await asyncio.sleep(_PAUSE_S)
