"""Carries packets between two TUN devices, each some time after it came: a long wire. ``relay NEAR FAR DELAY_MS``.

It makes the devices, says ``ready``, and carries until its input ends; the devices go with it. A device may be moved
into another network namespace meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LARGEST = 65536


class Wire:
    """One direction: what was read from a device, and when it is to be written to the other."""

    def __init__(self, source: int, target: int, delay_s: float) -> None:
        self.source, self._target, self._delay_s = source, target, delay_s
        self._under_way: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Read all that is there."""
        due = time.monotonic() + self._delay_s
        try:
            while True:
                self._under_way.append((due, os.read(self.source, _LARGEST)))
        except OSError:  # nothing more, or the device is down
            return

    def deliver(self) -> float | None:
        """Write what is due; say in how many seconds the next is, None where nothing is under way."""
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            packet = self._under_way.popleft()[1]
            try:
                os.write(self._target, packet)
            except OSError:  # as a wire loses what nobody takes
                continue
        return self._under_way[0][0] - now if self._under_way else None


def open_tun(name: str) -> int:
    """Make a TUN device and give its descriptor. Raises OSError."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def carry(wires: tuple[Wire, ...], until_eof: int) -> None:
    """Carry until the input ends."""
    poll = select.poll()
    for source in (until_eof, *(wire.source for wire in wires)):
        poll.register(source, select.POLLIN)
    while True:
        waits = [wait for wire in wires if (wait := wire.deliver()) is not None]
        for descriptor, _ in poll.poll(max(0.0, min(waits)) * 1000 if waits else None):
            if descriptor == until_eof:
                return
        for wire in wires:
            wire.take()


if __name__ == "__main__":
    near, far = open_tun(sys.argv[1]), open_tun(sys.argv[2])
    delay_s = float(sys.argv[3]) / 1000
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    carry((Wire(near, far, delay_s), Wire(far, near, delay_s)), sys.stdin.fileno())
