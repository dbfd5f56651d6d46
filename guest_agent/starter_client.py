"""The agent's end of the socket to a slot's starter: it is started, told what to do, asked, and heard.

What is asked is answered in order; that a payload has ended is said unasked. A starter that does not answer, or cannot
be told anything, is given up, which ends it and all that it had started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from broker import durable
from broker.vm_mark import own_mark
from guest_agent.errors import NotContained
from guest_agent.programs import STARTER, command_of

log = logging.getLogger(__name__)

#: How long a starter may take to start or to answer, seconds: under emulation, on a machine that is full.
ANSWER_S = 60.0
#: An order up to this length goes in the message itself, a longer one in a file in memory, bytes.
INLINE_BYTES = 32 << 10
_READ_BYTES = 65536


class StarterClient:
    """One slot's starter, and after it the next one. Belongs to one event loop."""

    def __init__(
        self, slot: str, on_end: Callable[[dict[str, Any]], None], on_gone: Callable[[NotContained], None]
    ) -> None:
        """``on_end`` is called with what a starter says of a payload that has ended; ``on_gone`` when it is let go."""
        self._slot = slot
        self._on_end, self._on_gone = on_end, on_gone
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()

    @property
    def is_up(self) -> bool:
        """A starter was started, and was not let go."""
        return self._socket is not None

    async def start(self, setting: dict[str, Any]) -> list[str]:
        """Start a starter, where none is up; give the namespaces that it has. Raises NotContained, OSError."""
        self._spawn(setting)
        parts: list[str] = (await self._answer(self._expect()))["hello"]
        return parts

    def order(self, order: bytes, stdout: int, stderr: int) -> None:
        """Have a payload started. Raises NotContained, and nothing runs."""
        if self._socket is None:
            raise NotContained("the starter of the slot was ended")
        try:
            if len(order) <= INLINE_BYTES:
                socket.send_fds(self._socket, [order], (stdout, stderr))
                return
            with os.fdopen(os.memfd_create("order"), "wb", buffering=0) as file:
                durable.write_all(file.fileno(), order)
                socket.send_fds(self._socket, [b'{"do": "read"}'], (stdout, stderr, file.fileno()))
        except OSError as error:
            self.close()
            raise NotContained(f"the starter of the slot cannot be told anything: {error.strerror}") from error

    async def measure(self) -> int:
        """Ask what all that it started has in memory now, bytes. Raises NotContained."""
        if self._socket is None:
            raise NotContained("the starter of the slot was ended")
        expected = self._expect()
        self._send({"do": "measure"})
        return int((await self._answer(expected))["resident_bytes"])

    def signal(self, number: int) -> None:
        """Have the payload signalled; nothing happens when the starter is gone."""
        self._send({"do": "signal", "number": number})

    def close(self) -> None:
        """Let the starter go, which ends whatever runs and then itself. Idempotent."""
        self._let_go(NotContained("the starter of the slot was ended"))

    def _spawn(self, setting: dict[str, Any]) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [*command_of(STARTER), str(its.fileno()), msgspec.json.encode(setting).decode()],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
                start_new_session=True,
                env={"LANG": "C.UTF-8"} | own_mark(),
            )
        mine.setblocking(False)
        self._socket = mine
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(mine, self._on_message)

    def _send(self, request: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(msgspec.json.encode(request))

    def _expect(self) -> asyncio.Future[dict[str, Any]]:
        expected: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked.append(expected)
        return expected

    async def _answer(self, expected: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await expected
        except TimeoutError as error:
            silent = NotContained(f"the starter of the slot did not answer for {ANSWER_S:.0f} s")
            self._let_go(silent)
            raise silent from error

    def _on_message(self) -> None:
        if self._socket is None:
            return
        message = self._socket.recv(_READ_BYTES)
        if not message:
            log.error("starter gone", extra={"slot": self._slot})
            self.close()
            return
        said = msgspec.json.decode(message)
        if "status" in said or "failed" in said:
            self._on_end(said)
        elif self._asked:
            expected = self._asked.popleft()
            if not expected.done():  # whoever asked may have been cancelled
                expected.set_result(said)

    def _let_go(self, error: NotContained) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        asked, self._asked = self._asked, deque()
        for future in asked:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more
        self._on_gone(error)
