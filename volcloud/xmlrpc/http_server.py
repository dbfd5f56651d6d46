"""HTTP on a loopback port: heads and bodies within bounds of size and time, and of sockets there are so many.

h11 knows the protocol, ``Gate`` who may come in, and what is given at the start answers a body. A connection that has
not asked for anything yet makes room for a newer one, so that whoever holds sockets open keeps nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import h11

from broker.node import LOOPBACK
from volcloud.xmlrpc.gate import MOST_BODY_BYTES, Gate, HttpRefusal, too_large

#: Answers a body that was let in; cancelled when the caller goes away.
Answer = Callable[[bytes], Awaitable[bytes]]
#: Connections at once.
MOST_CONNECTIONS = 64
#: Longest head of a request, bytes.
MOST_HEAD_BYTES = 16 * 1024
#: How long a head may take, an idle connection included; a body; and an answer until the caller has it, seconds.
HEAD_S, BODY_S, WRITE_S = 15.0, 30.0, 60.0
#: How long, and how much, is read of a request that was refused, so that the caller reads why: seconds, bytes.
LINGER_S, LINGER_BYTES = 2.0, 4 << 20
_READ_BYTES = 64 * 1024


class HttpServer:
    """See the module. Belongs to the loop that opened it."""

    def __init__(self, answer: Answer, *, most_connections: int = MOST_CONNECTIONS, head_s: float = HEAD_S) -> None:
        self._answer, self._most, self._head_s = answer, most_connections, head_s
        self._visits: dict[asyncio.Task[None], _Visit] = {}
        self._server: asyncio.Server | None = None
        self._gate: Gate | None = None

    async def open(self, port: int, token: bytes) -> int:
        """Listen on a loopback port, any free one for 0; give which. Raises OSError where it is taken."""
        self._server = await asyncio.start_server(self._on_connect, LOOPBACK, port, limit=_READ_BYTES)
        found: int = self._server.sockets[0].getsockname()[1]
        self._gate = Gate(token, found)
        return found

    async def close(self) -> None:
        """Listen no more; calls that are at work are cancelled. Idempotent."""
        if self._server is not None:
            self._server.close()
        visits = list(self._visits)
        for task in visits:
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._visits)

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._gate is None or not self._has_room():
            writer.transport.abort()
            return
        visit = _Visit(reader, writer, self._gate, self._answer, self._head_s)
        self._visits[task] = visit
        try:
            await visit.run()
        except asyncio.CancelledError:
            pass  # it made room, or the server closes: the task is this connection's own
        finally:
            del self._visits[task]
            writer.transport.abort()

    def _has_room(self) -> bool:
        """Make room for one more where there is none, at the cost of the oldest that waits; False where all work."""
        if len(self._visits) < self._most:
            return True
        waiting = next((task for task, visit in self._visits.items() if visit.is_waiting), None)
        if waiting is None:
            return False
        self._visits[waiting].is_waiting = False
        waiting.cancel()
        return True


class _Visit:
    """One connection, a request after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: Gate,
        answer: Answer,
        head_s: float,
    ) -> None:
        self._reader, self._writer, self._gate, self._answer = reader, writer, gate, answer
        self._head_s = head_s
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        #: Nothing is at work for it.
        self.is_waiting = True
        # What was written is with the kernel once it is drained: the connection may be closed then.
        writer.transport.set_write_buffer_limits(high=0)

    async def run(self) -> None:
        """Serve it until it ends. What goes wrong with it is its own trouble."""
        try:
            while await self._serve_one():
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(OSError, TimeoutError, h11.LocalProtocolError):
                status = HTTPStatus(error.error_status_hint)
                await self._refuse(HttpRefusal(status, "this is no HTTP request as it should be"))
        except (OSError, TimeoutError):
            return

    async def _serve_one(self) -> bool:
        """Take a request and answer it; say whether another may follow."""
        async with asyncio.timeout(self._head_s):
            head = await self._next()
        if not isinstance(head, h11.Request):
            return False
        refusal = self._gate.judge(head.method, head.target, head.headers)
        body = None if refusal else await self._body()
        if body is None:
            await self._refuse(refusal or too_large())
            return False
        self.is_waiting = False
        answer = await self._answered(body)
        if answer is None:
            return False
        await self._send(HTTPStatus.OK, "text/xml; charset=utf-8", answer)
        self.is_waiting = True
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        """Give the next event of the caller's; PAUSED and ConnectionClosed among them."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._writer.write(go_on or b"")
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event  # type: ignore[return-value]  # NEED_DATA is what the loop is left without

    async def _body(self) -> bytes | None:
        """Read the body; None where it is too long."""
        gathered = bytearray()
        async with asyncio.timeout(BODY_S):
            while isinstance(event := await self._next(), h11.Data):
                gathered += event.data
                if len(gathered) > MOST_BODY_BYTES:
                    return None
        return bytes(gathered) if isinstance(event, h11.EndOfMessage) else None

    async def _answered(self, body: bytes) -> bytes | None:
        """Have a body answered; None where the caller has gone: then the call is cancelled."""
        work = asyncio.ensure_future(self._answer(body))
        heard = asyncio.ensure_future(self._reader.read(_READ_BYTES))
        try:
            await asyncio.wait([work, heard], return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                more = heard.result()
                self._http.receive_data(more)
                if not more:
                    return None
            return await work
        finally:
            for one in (work, heard):
                one.cancel()
            await asyncio.gather(work, heard, return_exceptions=True)

    async def _send(self, status: HTTPStatus, kind: str, body: bytes, *more: tuple[str, str]) -> None:
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *more,
        ]
        head = h11.Response(status_code=status.value, headers=headers, reason=status.phrase.encode())
        events: list[h11.Event] = [head, h11.Data(data=body), h11.EndOfMessage()]
        async with asyncio.timeout(WRITE_S):
            for event in events:
                self._writer.write(self._http.send(event) or b"")
            await self._writer.drain()

    async def _refuse(self, refusal: HttpRefusal) -> None:
        """Say why not, and close once the caller has had the time to read it."""
        more = [("Connection", "close"), *([refusal.header] if refusal.header else [])]
        await self._send(refusal.status, "text/plain; charset=utf-8", f"{refusal.text}\n".encode(), *more)
        if self._writer.can_write_eof():
            self._writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            left = LINGER_BYTES
            while left > 0 and (more_of_it := await self._reader.read(_READ_BYTES)):
                left -= len(more_of_it)
