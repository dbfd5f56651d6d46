"""A listener between a guest's relay and the broker that notices when the broker has let the guest in."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from broker.node import LOOPBACK

#: A frame of AMQP 0-9-1: type, channel, size; then, of a method, its class and number. ``connection.tune`` is what the
#: broker says once it takes the password.
_HEAD_BYTES, _TUNE = 7, b"\x00\x0a\x00\x1e"


class LoginWatch:
    """See the module. ``seen`` is set at the first login."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.seen = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> LoginWatch:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, guest: asyncio.StreamReader, to_guest: asyncio.StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection(LOOPBACK, self._broker_port)
        for work in (_pump(guest, to_broker), self._watched(broker, to_guest)):
            pump = asyncio.create_task(work)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _watched(self, broker: asyncio.StreamReader, to_guest: asyncio.StreamWriter) -> None:
        """Copy what the broker says, frame by frame until the login."""
        with suppress(asyncio.IncompleteReadError, OSError):
            while not self.seen.is_set():
                head = await broker.readexactly(_HEAD_BYTES)
                rest = await broker.readexactly(int.from_bytes(head[3:7]) + 1)
                to_guest.write(head + rest)
                if rest.startswith(_TUNE):
                    self.seen.set()
        await _pump(broker, to_guest)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()
