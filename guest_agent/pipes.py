"""A payload's output on its way through pipes to sinks: read when it comes, held back while a sink says so, drained.

A sink can hold a stream back; then the pipe fills, and whoever writes to it waits. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

#: Bytes read from a pipe at a time.
READ_BYTES = 64 * 1024
#: How long output of a group whose leader has ended is still awaited, seconds.
DRAIN_S = 2.0


class Sink(Protocol):
    """Takes a stream's bytes. ``take`` returns False to be asked no more until ``PipeReader.go_on``."""

    def take(self, data: bytes) -> bool:
        """Take some output."""


class Pipes:
    """Two pipes for a payload's output. ``hand_over`` once both write ends are with it."""

    def __init__(self) -> None:
        self.out, self.out_write = os.pipe()
        self.err, self.err_write = os.pipe()

    def hand_over(self) -> None:
        """Close our copies of the write ends."""
        os.close(self.out_write)
        os.close(self.err_write)

    def readers(self, stdout: Sink, stderr: Sink) -> dict[int, Sink]:
        """Say which sink takes what comes out of which read end."""
        return {self.out: stdout, self.err: stderr}

    def drop(self) -> None:
        """Close the read ends too: nothing was started."""
        os.close(self.out)
        os.close(self.err)


class Outlets(Protocol):
    """What a payload's output comes out of."""

    def readers(self, stdout: Sink, stderr: Sink) -> dict[int, Sink]:
        """Say which sink takes what comes out of which descriptor."""


class PipeReader:
    """Reads both pipes to their end, or a terminal. ``drain`` comes last."""

    def __init__(self, pipes: Outlets, stdout: Sink, stderr: Sink, *, listen_after_s: float = 0.0) -> None:
        """Take the read ends over. What is printed waits in the pipes until they are listened to, or for the end."""
        self._loop = asyncio.get_running_loop()
        self._sinks = pipes.readers(stdout, stderr)
        self._reading: set[int] = set()
        #: Those whose sinks asked to be left alone.
        self._held_back: set[int] = set()
        self._drained = asyncio.Event()
        for descriptor in self._sinks:
            os.set_blocking(descriptor, False)
        self._listen = self._loop.call_later(listen_after_s, self.go_on) if listen_after_s else None
        if self._listen is None:
            self.go_on()

    def go_on(self) -> None:
        """Read again from streams whose sinks asked to be left alone."""
        for descriptor in set(self._sinks) - self._reading:
            self._read(descriptor)

    async def drain(self) -> None:
        """Take what is still in the pipes, for as long as a sink holds it back. A process that left the group may keep
        them open; it is not waited for."""
        self._take_at_once()
        while self._sinks:
            try:
                async with asyncio.timeout(DRAIN_S):
                    await self._drained.wait()
            except TimeoutError:
                if self._reading == set(self._sinks):
                    break
        for descriptor in list(self._sinks):
            self._shut(descriptor)

    def _take_at_once(self) -> None:
        """Take what is in pipes to which nobody has listened yet: nearly always that is all, up to their end."""
        if self._listen is not None:
            self._listen.cancel()
        for descriptor in set(self._sinks) - self._reading - self._held_back:
            if self._take(descriptor):
                self._take(descriptor)
            if descriptor in self._sinks and descriptor not in self._held_back:
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        self._reading.add(descriptor)
        self._held_back.discard(descriptor)
        self._loop.add_reader(descriptor, self._take, descriptor)

    def _take(self, descriptor: int) -> bool:
        """Hand some output on. Says whether there may be more to be had now."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if not data:
            self._shut(descriptor)
        elif not self._sinks[descriptor].take(data):
            self._held_back.add(descriptor)
            self._ignore(descriptor)
        else:
            return True
        return False

    def _ignore(self, descriptor: int) -> None:
        if descriptor in self._reading:
            self._reading.discard(descriptor)
            self._loop.remove_reader(descriptor)

    def _shut(self, descriptor: int) -> None:
        self._ignore(descriptor)
        del self._sinks[descriptor]
        os.close(descriptor)
        if not self._sinks:
            self._drained.set()
