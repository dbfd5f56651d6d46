"""pika's connection over a stream, and what it must do better: gather what it writes, and read whatever comes.

What a stranger put into a message's properties is read by ``broker.content`` where pika cannot; frames of bulk are read
to their end at once.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pika
from pika import exceptions as foreign
from pika import frame
from pika.adapters.asyncio_connection import AsyncioConnection

from broker.content import MOST_BYTES, read_content
from broker.peer import ANYBODY, require_owner

#: Octets of a frame before its payload, and around it.
_BEFORE_BYTES, _AROUND_BYTES = 7, 8
#: What is read from the socket at once: little, as pika does it, for what is read of several frames is copied with
#: each of them; but of a frame that has begun all the rest, which comes in 64 pieces else and is copied with each.
_READ_BYTES, _READ_MOST_BYTES = 4096, 128 << 10
#: How an alert of TLS begins: what a TLS listener says to AMQP's greeting.
_TLS_ALERT = b"\x15\x03"


class SpeaksTls(foreign.AMQPConnectionError):  # type: ignore[misc]
    """The other end answered our greeting in TLS."""


class GatheringConnection(AsyncioConnection):  # type: ignore[misc]  # pika exports no types for it
    """pika's asyncio connection, but what one turn of the loop writes goes out in one ``send``.

    pika sends each frame by itself, three for a publish: a third of a busy process's time (see docs, performance).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._gathered: list[bytes] = []
        #: To whom the other end must belong before it is sent the password.
        self.owner = ANYBODY
        #: Why the stream ended. Before the login is done pika tells its guess, a refused login, in place of this.
        self.ended_by: Exception | None = None
        #: What TLS had to say of its end.
        self._told: Exception | None = None
        super().__init__(*args, **options)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._emit_gathered)
        self._gathered.append(data)

    def _get_credentials(self, method_frame: Any) -> Any:
        """Answer the broker's greeting: by now the other end has accepted, and its owner is known."""
        require_owner(self._transport._sock, self.owner)
        return super()._get_credentials(method_frame)

    def _emit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self._transport is not None:
            super()._adapter_emit_data(b"".join(gathered))

    def _on_data_available(self, data_in: bytes) -> None:
        super()._on_data_available(data_in)
        if self._transport is not None:
            missing = _frame_end(self._frame_buffer) - len(self._frame_buffer) if self._frame_buffer else 0
            self._transport._MAX_RECV_BYTES = min(max(missing, _READ_BYTES), _READ_MOST_BYTES)

    def _read_frame(self) -> Any:
        """Read a frame; content properties that pika cannot, or that would take it long, with our own reader.

        What is in them a stranger decides. Whatever else pika cannot read the broker itself has said: the link ends.
        """
        buffer = self._frame_buffer
        if buffer[0] != pika.spec.FRAME_HEADER:
            if buffer.startswith(_TLS_ALERT):
                self._told = SpeaksTls()
            return frame.decode_frame(buffer)
        end = _frame_end(buffer)
        if end > len(buffer):
            return 0, None
        if end > MOST_BYTES:
            return end, _read_header(buffer[:end])
        try:
            return frame.decode_frame(buffer)
        except Exception:  # noqa: BLE001  whatever a stranger's octets make pika raise
            return end, _read_header(buffer[:end])

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            self._told = error
        super()._proto_connection_lost(error)

    def _on_stream_terminated(self, error: Exception | None) -> None:
        self.ended_by = self._told or error or self._error or foreign.StreamLostError("abandoned")
        super()._on_stream_terminated(self.ended_by)


def _frame_end(buffer: bytes) -> int:
    """Say how long the frame is that a buffer begins with; longer than the buffer where that cannot be said yet."""
    return _AROUND_BYTES + int.from_bytes(buffer[3:_BEFORE_BYTES], "big") if len(buffer) > _BEFORE_BYTES else MOST_BYTES


def _read_header(octets: bytes) -> frame.Header:
    """Read a content header frame whatever is in it; what is wrong goes along as the properties' ``flaw``."""
    payload = octets[_BEFORE_BYTES:-1]
    content = read_content(payload[12:])
    properties = pika.BasicProperties(**content.properties)
    properties.flaw = f"properties: {content.flaw}" if content.flaw else ""
    return frame.Header(int.from_bytes(octets[1:3], "big"), int.from_bytes(payload[4:12], "big"), properties)
