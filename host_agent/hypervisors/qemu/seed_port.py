"""The virtio-serial port by which a guest that runs hears its newest seed, as the seed's file has it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import NoReturn

from broker.road.streams import short_path
from host_agent.hypervisors.qemu.command import SEED_FILE, SEED_FILE_BYTES, SEED_SOCKET

log = logging.getLogger(__name__)

#: A guest that floods its port is answered no more often than this, and the port is tried again as often.
_PAUSE_S = 0.1


class HostSeedPort:
    """The host's end of one VM's port. ``run`` for as long as the process lives."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> NoReturn:
        """Keep the port connected, and answer the guest; until cancelled."""
        while True:
            try:
                with short_path(self._home / SEED_SOCKET) as path:
                    reader, writer = await asyncio.open_unix_connection(path)
                try:
                    self._writer = writer
                    await self._serve(reader, writer)
                finally:
                    self._writer = None
                    writer.close()
            except OSError as error:
                log.debug("seed_port_not_connected vm=%s error=%s", self._home.name, error)
            await asyncio.sleep(_PAUSE_S)

    def push(self) -> None:
        """Send the newest seed to the guest, if the port is connected; otherwise it goes out when it is."""
        if self._writer is not None:
            self._writer.write(self._line())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the newest seed at once, then whenever the guest writes anything: there is nothing else to ask for."""
        writer.write(self._line())
        while await reader.read(SEED_FILE_BYTES):
            writer.write(self._line())
            await writer.drain()
            await asyncio.sleep(_PAUSE_S)

    def _line(self) -> bytes:
        return (self._home / SEED_FILE).read_bytes().strip() + b"\n"
