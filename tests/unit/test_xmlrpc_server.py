"""The HTTP of the XML-RPC door, over real sockets: bounds of size, time and number, and whose trouble is whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.broker.polling import until
from volcloud.xmlrpc.gate import MOST_BODY_BYTES
from volcloud.xmlrpc.http_server import MOST_HEAD_BYTES, HttpServer

TOKEN = b"t" * 43
PATIENCE_S = 30.0
#: More than a socket takes at once.
LONG_BYTES = 16 << 20


class Serving:
    """A server, what reached its answering side, and connections to it."""

    def __init__(self, **options: float) -> None:
        self.bodies: list[bytes] = []
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.server = HttpServer(self.answer, **options)  # type: ignore[arg-type]
        self.port = 0

    async def answer(self, body: bytes) -> bytes:
        self.bodies.append(body)
        if body == b"long":
            return b"x" * LONG_BYTES + b"<end/>"
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"<answer/>"

    async def connect(self) -> Connection:
        async with asyncio.timeout(PATIENCE_S):
            return Connection(self.port, *await asyncio.open_connection("127.0.0.1", self.port))


class Connection:
    """One connection, byte for byte."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port, self._reader, self._writer = port, reader, writer

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def head(self, *more: bytes, length: int | None = 4, token: bytes = TOKEN) -> bytes:
        lines = [
            b"POST /RPC2 HTTP/1.1",
            b"Host: 127.0.0.1:%d" % self._port,
            b"Authorization: Bearer " + token,
            b"Content-Type: text/xml",
            *([b"Content-Length: %d" % length] if length is not None else []),
            *more,
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def ask(self, body: bytes = b"body", **options: bytes) -> None:
        self.say(self.head(length=len(body), **options) + body)  # type: ignore[arg-type]

    async def hear(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readuntil(end)

    async def hear_all(self) -> bytes:
        """What comes until the other end closes, in order or not."""
        gathered = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while data := await self._reader.read(65536):
                    gathered += data
        except ConnectionError:
            pass
        return gathered

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def serving(**options: float) -> AsyncIterator[Serving]:
    made = Serving(**options)
    made.port = await made.server.open(0, TOKEN)
    try:
        yield made
    finally:
        await made.server.close()


async def test_a_request_is_answered_and_the_connection_serves_the_next() -> None:
    async with serving() as it:
        visit = await it.connect()
        for _ in range(3):
            visit.ask()
            assert (await visit.hear(b"<answer/>")).startswith(b"HTTP/1.1 200 OK\r\n")

    assert it.bodies == [b"body"] * 3


async def test_without_the_token_nothing_is_done_and_the_caller_reads_why() -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.ask(b"x" * MOST_BODY_BYTES, token=b"wrong")
        said = await visit.hear_all()

    assert said.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"the file xmlrpc/token" in said
    assert it.bodies == []


@pytest.mark.parametrize(
    "say",
    [
        lambda visit: visit.head(length=MOST_BODY_BYTES + 1),
        lambda visit: (
            visit.head(b"Transfer-Encoding: chunked", length=None)
            + b"10000\r\n"
            + b"x" * 65536
            + b"\r\n"
            + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 16
        ),
    ],
    ids=["said", "chunked"],
)
async def test_a_body_has_an_end(say: Callable[[Connection], bytes]) -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.say(say(visit))
        said = await visit.hear_all()

    assert b"413 Request Entity Too Large" in said
    assert it.bodies == []


async def test_a_head_has_an_end() -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.say(b"POST /RPC2 HTTP/1.1\r\nX: " + b"x" * 2 * MOST_HEAD_BYTES)
        said = await visit.hear_all()

    assert said.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 9])
async def test_what_is_no_http_ends_its_own_connection_alone(data: bytes) -> None:
    async with serving(head_s=1.0) as it:
        hostile, good = await it.connect(), await it.connect()
        hostile.say(data)
        await hostile.hear_all()
        good.ask()

        assert await good.hear(b"<answer/>")


async def test_who_says_its_head_slowly_is_left() -> None:
    async with serving(head_s=0.2) as it:
        visit = await it.connect()
        visit.say(b"POST /RPC2 HTTP/1.1\r\n")

        assert await visit.hear_all() == b""
        await until(lambda: it.server.connections == 0)


async def test_a_large_body_is_asked_for_before_it_comes() -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.say(visit.head(b"Expect: 100-continue"))
        assert await visit.hear(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        visit.say(b"body")

        assert await visit.hear(b"<answer/>")


async def test_whoever_holds_sockets_open_keeps_nobody_out() -> None:
    async with serving(most_connections=4) as it:
        idle = [await it.connect() for _ in range(20)]
        for visit in idle:
            visit.say(b"POST /RPC2 HTTP/1.1\r\n")
        good = await it.connect()
        good.ask()

        assert await good.hear(b"<answer/>")
        assert it.server.connections <= 4


async def test_calls_that_are_at_work_make_no_room() -> None:
    async with serving(most_connections=2) as it:
        it.go_on.clear()
        working = [await it.connect() for _ in range(2)]
        for visit in working:
            visit.ask()
        await until(lambda: len(it.bodies) == 2)
        late = await it.connect()

        assert await late.hear_all() == b""
        it.go_on.set()
        for visit in working:
            assert await visit.hear(b"<answer/>")


async def test_a_caller_that_goes_away_ends_its_call() -> None:
    async with serving() as it:
        it.go_on.clear()
        visit = await it.connect()
        visit.ask()
        await until(lambda: it.bodies == [b"body"])
        visit.close()

        await until(lambda: it.cancelled == 1)


async def test_what_comes_while_a_call_is_at_work_waits_for_its_turn() -> None:
    async with serving() as it:
        it.go_on.clear()
        visit = await it.connect()
        visit.ask(b"one")
        await until(lambda: it.bodies == [b"one"])
        visit.ask(b"two")
        it.go_on.set()
        await visit.hear(b"<answer/>")
        await visit.hear(b"<answer/>")

    assert it.bodies == [b"one", b"two"]


async def test_two_requests_in_one_packet_are_answered_in_order() -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.say((visit.head(length=1) + b"a") + (visit.head(length=1) + b"b"))
        await visit.hear(b"<answer/>")
        await visit.hear(b"<answer/>")

    assert it.bodies == [b"a", b"b"]


async def test_a_long_answer_is_whole_where_the_connection_ends_with_it() -> None:
    async with serving() as it:
        visit = await it.connect()
        visit.say(visit.head(b"Connection: close") + b"long")
        said = await visit.hear_all()

    assert len(said) > LONG_BYTES
    assert said.endswith(b"x<end/>")


async def test_closing_ends_what_is_at_work() -> None:
    async with serving() as it:
        it.go_on.clear()
        visit = await it.connect()
        visit.ask()
        await until(lambda: it.bodies == [b"body"])

    assert it.cancelled == 1
    assert it.server.connections == 0
