"""What an attempt used and left, as its row keeps it."""

from __future__ import annotations

import logging

import msgspec

from schemas.files import MAX_PATH
from schemas.jobs import OutputEntry, Steps, Usage

log = logging.getLogger(__name__)


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt used, how long its steps took, what it left; one blob in its row."""

    usage: Usage = Usage()
    steps: Steps = Steps()
    outputs: list[OutputEntry] = []

    @classmethod
    def read(cls, blob: bytes | None) -> Work:
        """Read a row's blob; an attempt that has not ended has none, and one that cannot be read is as none."""
        try:
            return msgspec.msgpack.decode(blob, type=cls) if blob else cls()
        except msgspec.DecodeError as error:
            log.warning("what an attempt left cannot be read", extra={"why": str(error)})
            return cls()

    def readable(self) -> list[OutputEntry]:
        """Give the outputs whose names a stranger may be told: each once, and of a size that there can be."""
        named = {entry.name: entry for entry in reversed(self.outputs) if is_name(entry.name) and entry.size >= 0}
        return list(reversed(named.values()))


def is_name(name: str) -> bool:
    """Say whether it is a relative path that leads nowhere else, and that can be shown."""
    return 0 < len(name) <= MAX_PATH and name.isprintable() and not {"", ".", ".."} & set(name.split("/"))
