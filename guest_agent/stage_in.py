"""Putting a job's inputs into its directory: out of the description, or out of the cache. Holes in files stay holes."""

from __future__ import annotations

import os
from pathlib import Path

from broker import durable
from guest_agent.directory import Directory
from schemas.description import Input

#: Bytes that are copied at a time.
COPY_BYTES = 1 << 20


def place(
    item: Input, cached: Path | None, held: Directory, owner: tuple[int, int] | None, *, executable: bool
) -> None:
    """Put an input where the payload expects it. Blocking. Raises OSError.

    Where payloads have another account a cached file is linked: they can read it, and neither change nor list it.
    """
    if cached is not None and owner is not None and not executable and _linked(cached, item.name, held, owner):
        return
    target = held.create(item.name, owner=owner, mode=0o755 if executable else 0o644)
    try:
        if cached is None:
            durable.write_all(target, item.content or b"")
        else:
            _copy(cached, target)
    finally:
        os.close(target)


def _linked(cached: Path, name: str, held: Directory, owner: tuple[int, int]) -> bool:
    try:
        held.link(cached, name, owner=owner)
    except OSError:  # another file system, or too many links: copied then, and what else is wrong shows there
        return False
    return True


def _copy(source: Path, target: int) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        at = 0
        while at < size:
            at = _next_data(descriptor, at, size)
            piece = os.pread(descriptor, COPY_BYTES, at)
            durable.write_all(target, piece, at)
            at += len(piece)
        os.ftruncate(target, size)
    finally:
        os.close(descriptor)


def _next_data(descriptor: int, at: int, size: int) -> int:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError:  # ENXIO: a hole up to the end
        return size
