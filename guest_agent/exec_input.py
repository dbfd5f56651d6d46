"""A command's standard input in the guest: what has come waits here until the command reads it, and no more than that.

Room is granted as the command reads, so that neither the agent's memory nor its queue fills. Pieces come in order; one
that was lost on the way, or that comes without room, ends the command, since it would read what nobody has sent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from guest_agent.errors import InputBroken
from schemas.execs import INPUT_WINDOW_BYTES, ExecInput

#: What a terminal takes for the end of its input: Ctrl-D.
END_OF_TERMINAL = b"\x04"


class InputPipe:
    """The guest's side of one command's input. Belongs to one loop."""

    def __init__(self, descriptor: int, on_change: Callable[[], None], *, at_end: bytes = b"") -> None:
        """Take the write end over. ``on_change`` is called when there is more room, or when the command reads no more;
        ``at_end`` is written behind the last of it."""
        self._loop = asyncio.get_running_loop()
        self._descriptor, self._on_change, self._at_end = descriptor, on_change, at_end
        self._waiting = bytearray()
        self._next = self._received = 0
        self._has_last = self._is_writing = False
        #: Input that may come in all, bytes; whether any more of it will be read.
        self.limit_bytes, self.is_closed = INPUT_WINDOW_BYTES, False
        os.set_blocking(descriptor, False)

    def take(self, piece: ExecInput) -> None:
        """Take a piece; what came before, or behind the end, is dropped. Raises InputBroken."""
        if piece.number < self._next or self._has_last:
            return
        if piece.number > self._next:
            lost = piece.number - self._next
            raise InputBroken(f"{lost} pieces of its standard input were lost on their way; the command was killed")
        self._next += 1
        self._received += len(piece.data)
        if self._received > self.limit_bytes:
            raise InputBroken(
                f"input = {self._received} bytes: {self.limit_bytes} were allowed; the command was killed"
            )
        self._has_last = piece.is_last
        if not self.is_closed:
            self._waiting += piece.data + (self._at_end if piece.is_last else b"")
            self._write()

    def close(self) -> None:
        """Let the command read the end of it. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        self._waiting.clear()
        self._watch(False)
        os.close(self._descriptor)

    def _write(self) -> None:
        try:
            while self._waiting:
                with memoryview(self._waiting) as view, view[:INPUT_WINDOW_BYTES] as some:
                    count = os.write(self._descriptor, some)
                del self._waiting[:count]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it any more
            self.close()
            self._on_change()
            return
        self._watch(bool(self._waiting))
        if not self._waiting and self._has_last:
            self.close()
            return
        self._grant()

    def _grant(self) -> None:
        """Give the room anew when half of it is used up; on a terminal, whose program may take little at a time and
        whose person shall see that it does, when a small part is."""
        limit = self._received - len(self._waiting) + INPUT_WINDOW_BYTES
        if limit - self.limit_bytes >= INPUT_WINDOW_BYTES // (16 if self._at_end else 2):
            self.limit_bytes = limit
            self._on_change()

    def _watch(self, is_wanted: bool) -> None:
        if is_wanted and not self._is_writing:
            self._loop.add_writer(self._descriptor, self._write)
        elif not is_wanted and self._is_writing:
            self._loop.remove_writer(self._descriptor)
        self._is_writing = is_wanted
