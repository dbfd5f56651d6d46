"""Where the bytes of a transfer that goes out come from. Everything here blocks."""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """A stream of bytes that can be read from any offset, and again."""

    @property
    def name(self) -> str:
        """What it is called, for a person."""

    def open(self) -> None:
        """Be ready to be read. Raises OSError."""

    def read(self, offset: int, length: int) -> bytes:
        """Give that part, or less of it where the source has become shorter. Raises OSError."""

    def close(self) -> None:
        """Let go. Idempotent."""
