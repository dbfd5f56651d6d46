"""A stranger that sends good messages as fast as it can, in its own process, and another that goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from broker.address import Address, read_address, write_address
from broker.connection import Connection, Delivery
from broker.errors import NotDelivered
from broker.inbound import recall
from broker.routes import queue_of, up
from schemas.codec import encode
from schemas.jobs import JobBeat, JobBeatAnswer
from tests.broker.raw_amqp import BODY, END, HEADER, METHOD, Raw, properties, short

#: Written at once: what a fast client makes of its buffers.
AT_ONCE = 200
#: Between two beats of the one that goes on, seconds: in ten seconds no more than its share.
EVERY_S = 0.04


def flooding(directory: Path, login: Address, kind: str, body: bytes, count: int) -> subprocess.Popen[bytes]:
    """Start sending ``count`` messages as fast as the broker takes them."""
    address, content = directory / f"{login.user}.json", directory / f"{login.user}.body"
    write_address(address, login)
    content.write_bytes(body)
    command = [sys.executable, "-m", "tests.system.flooding", str(address), kind, str(content), str(count)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def _flood(login: Address, kind: str, body: bytes, count: int) -> None:
    """Never waits for a confirm; ends when all is written, or when the broker hangs up."""
    with contextlib.suppress(ConnectionError, BrokenPipeError), Raw(login) as raw:
        wire: socket.socket = raw._socket
        message = _rendered(f"{login.user}.{kind}", login.user, body)
        for start in range(0, count, AT_ONCE):
            _write(wire, message * min(AT_ONCE, count - start))
        time.sleep(1.0)  # what has been written is read before the connection goes


def _write(wire: socket.socket, data: bytes) -> None:
    """Write all, and throw away what the broker says meanwhile. Raises ConnectionError when it hangs up."""
    view = memoryview(data)
    while view:
        readable, writable, _ = select.select([wire], [wire], [], 30)
        if readable and not wire.recv(1 << 16):
            raise ConnectionError("the broker hung up")
        if writable:
            view = view[wire.send(view[: 1 << 16]) :]


def _rendered(key: str, user: str, body: bytes) -> bytes:
    method = struct.pack(">HHH", 60, 40, 0) + short("vc.up") + short(key) + b"\0"
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties(user_id=short(user))
    parts = [(METHOD, method), (HEADER, header)]
    parts += [(BODY, body[start : start + 120_000]) for start in range(0, len(body), 120_000)]
    return b"".join(struct.pack(">BHI", kind, 1, len(octets)) + octets + END for kind, octets in parts)


class Beating(msgspec.Struct):
    """What became of the beats of one VM."""

    took_s: list[float]
    refused: int = 0

    @property
    def p99_s(self) -> float:
        """The time within which 99 of 100 were answered."""
        return sorted(self.took_s)[int(len(self.took_s) * 0.99)]


def beat(login: Address, seconds: float) -> Beating:
    """Beat as a guest does, but often, for so long, and note when each was answered."""
    return asyncio.run(_beat(login, seconds))


async def _beat(login: Address, seconds: float) -> Beating:
    answered: dict[str, asyncio.Event] = {}

    def hear(delivery: Delivery) -> None:
        delivery.ack()
        message = recall(delivery.body)
        if isinstance(message, JobBeatAnswer) and message.call in answered:
            answered[message.call].set()

    found = Beating([])
    async with Connection(login, name="going on") as connection:
        await connection.consume(queue_of(login.user), hear)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or len(found.took_s) < 20:
            message = JobBeat(holding=[], generation=1)
            answered = {message.id: asyncio.Event()}
            began = time.monotonic()
            while not await _is_taken(connection, message):
                found.refused += 1
            await asyncio.wait_for(answered[message.id].wait(), 60)
            found.took_s.append(time.monotonic() - began)
            await asyncio.sleep(EVERY_S)
    return found


async def _is_taken(connection: Connection, message: JobBeat) -> bool:
    try:
        await connection.publish(*up(connection.user, "beat"), encode(message), message_id=message.id)
    except NotDelivered:
        await asyncio.sleep(EVERY_S)
        return False
    return True


if __name__ == "__main__":
    _flood(read_address(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]).read_bytes(), int(sys.argv[4]))
