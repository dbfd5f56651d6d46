"""Adler-32, by which grids compare files: eight hexadecimal digits, as ``xrdadler32`` prints. It stops no forger."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

#: Read at a time, bytes.
BLOCK_BYTES = 1 << 20

_SAID = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,8})")


def adler32_of(blocks: Iterable[bytes]) -> str:
    """Give the checksum of bytes that come one after the other."""
    value = zlib.adler32(b"")
    for block in blocks:
        value = zlib.adler32(block, value)
    return f"{value:08x}"


def adler32_of_file(path: Path) -> str:
    """Read a file: its checksum. Raises OSError."""
    with path.open("rb") as file:
        return adler32_of(blocks_of(file))


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """Read a file to its end."""
    while block := file.read(BLOCK_BYTES):
        yield block


def as_said(text: str) -> str | None:
    """Read what a store or a catalogue says, which may leave out zeros at the front; None: it is no checksum."""
    match = _SAID.fullmatch(text.strip())
    return match[1].lower().zfill(8) if match else None
