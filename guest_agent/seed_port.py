"""The virtio-serial port through which QEMU's host hands in newer seeds while the guest lives.

One line per seed: base64, ended by a newline; the guest writes ``seed?`` to be sent the newest. Only one program may
have the port open. The host's end comes and goes with the host agent, and after a restore it is another one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

PORT_NAME = "org.volunteer-cloud.seed"
#: Where the kernel lists virtio-serial ports by number, with a file that holds the name.
PORTS = Path("/sys/class/virtio-ports")

#: The longest line that can be a seed, as the host pads it; what is longer is noise.
LINE_LIMIT_BYTES = 8192
_QUESTION = b"seed?\n"
#: Nothing tells when the host opens its end of the port again.
_LOOK_INTERVAL_S = 0.5


def find_port(ports: Path = PORTS, name: str = PORT_NAME) -> Path | None:
    """Find the device of a port of ours; its number depends on the machine, so it is looked up by name."""
    for entry in sorted(ports.glob("*/name")):
        if entry.read_text().strip() == name:
            return Path("/dev", entry.parent.name)
    return None


class SeedPort:
    """The port, opened by ``follow`` and opened again whenever it fails."""

    def __init__(self, ports: Path = PORTS) -> None:
        self._ports = ports
        self._descriptor: int | None = None

    def ask(self) -> None:
        """Ask for the newest seed. Nothing is lost where that fails: ``follow`` asks whenever it opens the port."""
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._descriptor, _QUESTION)

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield every seed that comes, for ever. At most one may follow at a time."""
        while True:
            try:
                async for seed in self._read():
                    yield seed
            except OSError as error:
                log.warning("seed port failed", extra={"why": str(error)})
            await asyncio.sleep(_LOOK_INTERVAL_S)

    async def _read(self) -> AsyncIterator[bytes]:
        device = find_port(self._ports)
        if device is None:
            return
        self._descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        try:
            self.ask()
            lines = SeedLines()
            while True:
                for seed in lines.feed(await _read_some(self._descriptor)):
                    yield seed
        finally:
            os.close(self._descriptor)
            self._descriptor = None


class SeedLines:
    """Takes bytes in pieces, gives seeds. What is no seed is dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in the next bytes and yield the seeds that they complete."""
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest if len(rest) <= LINE_LIMIT_BYTES else b""
        for line in lines:
            with contextlib.suppress(binascii.Error):
                if seed := base64.b64decode(line, validate=True):
                    yield seed


async def _read_some(descriptor: int) -> bytes:
    """Wait for bytes; while the host's end is closed a read gives nothing at once, so look again later."""
    while True:
        try:
            if piece := os.read(descriptor, LINE_LIMIT_BYTES):
                return piece
            await asyncio.sleep(_LOOK_INTERVAL_S)
        except BlockingIOError:
            await _wait_readable(descriptor)


async def _wait_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
