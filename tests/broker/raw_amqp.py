"""A client of AMQP 0-9-1 that writes bytes: whatever a stranger's own program could put into a message, unchecked.

``Raw`` logs in, opens a channel and publishes with content headers that the test makes up, octet for octet. Field
values of every type that the protocol has are made by ``fields``.
"""

from __future__ import annotations

import random
import socket
import struct
from types import TracebackType

from broker.address import Address

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
#: Property flags in their order on the wire, from bit 15 down.
NAMES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip


def short(text: bytes | str) -> bytes:
    """A short string."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">B", len(raw)) + raw


def long(raw: bytes) -> bytes:
    """What has its length in four octets before it: a long string, a table, an array."""
    return struct.pack(">I", len(raw)) + raw


def table(*pairs: tuple[bytes | str, bytes]) -> bytes:
    """A table of names and values; a value begins with the octet of its type."""
    return long(b"".join(short(name) + value for name, value in pairs))


def timestamp(seconds: int) -> bytes:
    """A field value that is a time."""
    return b"T" + struct.pack(">Q", seconds)


def nested(depth: int, *, kind: bytes = b"A") -> bytes:
    """An array in an array, or a table in a table, so deep."""
    value = b"V"
    for _ in range(depth):
        value = kind + (long(value) if kind == b"A" else table(("k", value)))
    return value


def properties(**given: bytes) -> bytes:
    """Content properties: flags, then each value as it is given."""
    flags = sum(1 << (15 - NAMES.index(name)) for name in given)
    return struct.pack(">H", flags) + b"".join(given[name] for name in NAMES if name in given)


class Raw:
    """A connection with one channel in confirm mode."""

    def __init__(self, address: Address, *, client_properties: bytes = table()) -> None:
        self.address = address
        self._socket = socket.create_connection((address.endpoints[0].host, address.endpoints[0].port), timeout=20)
        self._buffer = b""
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._hear(10, 10)
        login = long(f"\0{address.user}\0{address.password}".encode())
        self._say(0, 10, 11, client_properties + short("PLAIN") + login + short("en_US"))
        self._hear(10, 30)
        self._say(0, 10, 31, struct.pack(">HIH", 16, 131072, 0))
        self._say(0, 10, 40, short(address.vhost) + b"\0\0")
        self._hear(10, 41)
        self._say(1, 20, 10, b"\0")
        self._hear(20, 11)
        self._say(1, 85, 10, b"\0")
        self._hear(85, 11)
        self.published = 0

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        self._socket.close()

    def publish(self, exchange: str, key: bytes | str, header: bytes, body: bytes = b"x") -> None:
        """Write one message; the broker's word on it comes with ``confirmed``."""
        method = struct.pack(">HHH", 60, 40, 0) + short(exchange) + short(key) + b"\0"
        content = struct.pack(">HHQ", 60, 0, len(body)) + header
        frames = [(METHOD, method), (HEADER, content)]
        frames += [(BODY, body[start : start + 120_000]) for start in range(0, len(body), 120_000)]
        self._socket.sendall(b"".join(self._frame(kind, 1, payload) for kind, payload in frames))
        self.published += 1

    def confirmed(self) -> int:
        """Wait until the broker has confirmed all; give how many. Raises ConnectionError when it closes instead."""
        highest = 0
        while highest < self.published:
            class_id, method_id, payload = self._next()
            if class_id == 60 and method_id in (80, 120):
                highest = max(highest, struct.unpack_from(">Q", payload)[0])
            elif (class_id, method_id) in ((10, 50), (20, 40)):
                raise ConnectionError(payload[:200].decode(errors="replace"))
        return highest

    def _say(self, channel: int, class_id: int, method_id: int, payload: bytes) -> None:
        self._socket.sendall(self._frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + payload))

    def _hear(self, class_id: int, method_id: int) -> bytes:
        while True:
            one, two, payload = self._next()
            if (one, two) == (class_id, method_id):
                return payload
            if (one, two) in ((10, 50), (20, 40)):
                raise ConnectionError(payload[:200].decode(errors="replace"))

    def _next(self) -> tuple[int, int, bytes]:
        """The next method frame, as class, method and what follows."""
        while True:
            while len(self._buffer) < 7 or len(self._buffer) < 8 + struct.unpack_from(">I", self._buffer, 3)[0]:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionError("the broker hung up")
                self._buffer += data
            kind, _, size = struct.unpack_from(">BHI", self._buffer)
            payload, self._buffer = self._buffer[7 : 7 + size], self._buffer[8 + size :]
            if kind == METHOD:
                return (*struct.unpack_from(">HH", payload), payload[4:])

    def _frame(self, kind: int, channel: int, payload: bytes) -> bytes:
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


#: Every field type; RabbitMQ 3.10 hangs up on who sends it ``U``, or a float that is no number.
KINDS = "tbBUuIiLlfdDsSxATFV"
TAKEN_KINDS = KINDS.replace("U", "")
_SIZES = {"t": 1, "b": 1, "B": 1, "U": 2, "u": 2, "s": 2, "I": 4, "i": 4, "D": 5, "L": 8, "l": 8}
_TIMES = (0, 253402300800, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_PLAIN_TIMES = (0, 1_800_000_000, 253402300799)


class Fuzz:
    """Values of the given field types, drawn from a seed; ``plain`` ones have no flaw."""

    def __init__(self, seed: int, kinds: str = KINDS, *, plain: bool = False) -> None:
        self._random, self._plain = random.Random(seed), plain
        self._kinds, self._flat = kinds, kinds.replace("A", "").replace("F", "")

    def value(self, depth: int = 0) -> bytes:
        """A field value: its type's octet, then octets that fit it, or hostile ones."""
        draw = self._random
        kind = draw.choice(self._kinds if depth < (2 if self._plain else 4) else self._flat)
        if kind in _SIZES:
            return kind.encode() + self._octets(_SIZES[kind])
        if kind in "fd":
            return struct.pack(f">c{kind}", kind.encode(), draw.choice([0.0, -1e30, 1e-30]))
        if kind == "T":
            return timestamp(draw.choice(_PLAIN_TIMES if self._plain else _TIMES))
        if kind in "Sx":
            return kind.encode() + long(self._octets(draw.choice([0, 1, 20] if self._plain else [0, 1, 40, 3000])))
        if kind == "A":
            return b"A" + long(b"".join(self.value(depth + 1) for _ in range(draw.randrange(5))))
        if kind == "F":
            return b"F" + self.headers(depth + 1)
        return b"V"

    def headers(self, depth: int = 0) -> bytes:
        """A table of a few values; now and then very deep, or very long."""
        draw = self._random
        if self._plain:
            return table(*((self._name(draw.randrange(12)), self.value(depth)) for _ in range(draw.randrange(5))))
        if depth == 0 and draw.random() < 0.05:
            return table(("deep", nested(draw.choice([50, 2000]), kind=draw.choice([b"A", b"F"]))))
        if depth == 0 and draw.random() < 0.02:
            return table(("long", b"A" + long(b"V" * 60_000)))
        return table(*((self._name(draw.randrange(12)), self.value(depth)) for _ in range(draw.randrange(5))))

    def properties(self, user: str) -> bytes:
        """Content properties that the broker takes from ``user``."""
        draw = self._random
        given = {"user_id": short(user), "headers": self.headers()}
        for name in ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type", "app_id"):
            if draw.random() < 0.3:
                given[name] = short(self._name(draw.choice([0, 8, 255])))
        if draw.random() < 0.3:
            given["timestamp"] = self._octets(8)
        if draw.random() < 0.5:
            given["delivery_mode"] = draw.choice([b"\1", b"\2"])
        if draw.random() < 0.3:
            given["priority"] = self._octets(1)
        return properties(**given)

    def _name(self, count: int) -> bytes:
        octets = self._octets(count)
        return bytes(octet & 0x7F for octet in octets) if self._plain else octets

    def _octets(self, count: int) -> bytes:
        return self._random.randbytes(count)
