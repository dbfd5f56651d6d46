"""Takes connections on the link's address for a broker that listens on loopback: ``forward HOST BROKER_PORT``.

It says its port. Both ends of what it joins are in one namespace: the way over the link is one TCP connection.
"""

from __future__ import annotations

import asyncio
import sys

_PIECE = 1 << 18


async def forward(host: str, port: int) -> None:
    """Forward until terminated."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(join, host, 0, limit=_PIECE)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(forward(sys.argv[1], int(sys.argv[2])))
