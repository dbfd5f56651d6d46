"""Where the guest learns who it is: the seed, an opaque value that the host hands in and may replace while we live.

A file that is named, and that the host rewrites; else what QEMU's fw_cfg held when the machine was started, then what
comes through the seed port. What a seed says is not known here. Seeds are secrets: they are never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from guest_agent.seed_port import PORTS, SeedLines, SeedPort, find_port

log = logging.getLogger(__name__)

#: The fw_cfg item of our name; only root may read it. It has the form of a line on the seed port.
FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/org.volunteer-cloud/seed/raw")

#: How long the host may take to answer; it does so at once unless its agent is being restarted.
ANSWER_TIMEOUT_S = 5.0
#: Between two looks at a file; no notification works on every file system.
_LOOK_INTERVAL_S = 0.5


class SeedSource:
    """The medium of this guest. For one event loop; the port belongs to whoever made the source."""

    def __init__(self, path: Path | None, fw_cfg: Path = FW_CFG, ports: Path = PORTS) -> None:
        """``path`` None looks for QEMU's mediums; they may appear later, as modules are loaded."""
        self._path = path
        self._fw_cfg = fw_cfg
        self._ports = ports
        self._port = SeedPort(ports)
        self._follower: asyncio.Task[None] | None = None
        self._newest: bytes | None = None
        #: Set by every seed that comes through the port, new or not.
        self._heard = asyncio.Event()

    @property
    def is_a_machines(self) -> bool:
        """A hypervisor hands it in: this machine is a VM of ours, with a clock that is ours to set."""
        return self._path is None

    async def read(self) -> bytes:
        """Give the newest seed that is known. Raises OSError, saying where it looked, if there is none."""
        if self._path is not None:
            return self._path.read_bytes()
        return self._newest or self._read_fw_cfg()

    async def ask_newer(self) -> bytes:
        """Ask the host for its newest seed, wait a little, and give the newest known. Raises OSError without any."""
        if self._path is None:
            self._follow()
            self._heard.clear()
            self._port.ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._heard.wait()
        return await self.read()

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield each seed that differs from the one before, for ever; the first is what ``read`` gives."""
        if self._path is None:
            self._follow()
        last = None
        while True:
            self._heard.clear()
            with contextlib.suppress(OSError):
                seed = await self.read()
                if seed != last:
                    last = seed
                    yield seed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL_S):
                    await self._heard.wait()

    async def close(self) -> None:
        """Give the port back. Idempotent."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
            self._follower = None

    def _read_fw_cfg(self) -> bytes:
        if not self._fw_cfg.exists():
            port = find_port(self._ports) or "no seed port"
            raise FileNotFoundError(f"no seed: {self._fw_cfg} is missing and {port} has not spoken; use --seed FILE")
        for seed in SeedLines().feed(self._fw_cfg.read_bytes()):
            return seed
        raise OSError(f"no seed: {self._fw_cfg} holds something else")

    def _follow(self) -> None:
        if self._follower is None:
            self._follower = asyncio.ensure_future(self._follow_port())

    async def _follow_port(self) -> None:
        async for seed in self._port.follow():
            self._newest = seed
            self._heard.set()
