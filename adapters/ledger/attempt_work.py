"""What an attempt used and left, as its row keeps it."""

from __future__ import annotations

import msgspec

from schemas.jobs import OutputEntry, Steps, Usage


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt used, how long its steps took, what it left; one blob in its row."""

    usage: Usage = Usage()
    steps: Steps = Steps()
    outputs: list[OutputEntry] = []

    @classmethod
    def read(cls, blob: bytes | None) -> Work:
        """Read a row's blob; an attempt that has not ended has none."""
        return msgspec.msgpack.decode(blob, type=cls) if blob else cls()
