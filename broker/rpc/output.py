"""A command's output as it comes: in order, once, and with room granted for more. Pure.

The guest sends each piece until it is confirmed before it sends the next, so what is missing between two numbers was
lost on the way and never comes. A reconnect loses at most what was under way: it is granted again.
"""

from __future__ import annotations

from schemas.execs import FIRST_WINDOW_BYTES, ExecOutput


class OutputOrder:
    """The console's side of one command's output."""

    def __init__(self, window: int = FIRST_WINDOW_BYTES) -> None:
        self._window = window
        self._spare = window
        self._next = 0
        self._taken = 0
        self._granted = window
        #: Pieces that never came.
        self.lost = 0

    def take(self, piece: ExecOutput) -> bytes:
        """Give the piece's data; empty for one that came before."""
        if piece.number < self._next:
            return b""
        self.lost += piece.number - self._next
        self._next = piece.number + 1
        self._taken += len(piece.data)
        return piece.data

    def finish(self, pieces: int) -> int:
        """Say how many of the ``pieces`` that were sent never came."""
        self.lost += max(0, pieces - self._next)
        self._next = max(self._next, pieces)
        return self.lost

    def grant(self) -> int | None:
        """Give the new limit when half the room is used up, else None."""
        limit = self._taken + self._spare
        if limit - self._granted < self._window // 2:
            return None
        self._granted = limit
        return limit

    def grant_again(self) -> int:
        """Give the limit after a reconnect, one window more for what was lost on the way."""
        self._spare += self._window
        self._granted = self._taken + self._spare
        return self._granted
