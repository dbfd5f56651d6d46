"""What of a file holds bytes, and their SHA-256: what is a hole is neither read nor sent. Blocking."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator

from schemas.trees import MAX_EXTENTS_OF_FILE, Extent, TreeFile

#: A hole that is smaller is sent as zeros, bytes: to name it would cost more than it saves.
SMALLEST_HOLE_BYTES = 64 * 1024
#: Read at a time, bytes.
_BLOCK_BYTES = 1 << 20


def extents_of(file: int) -> tuple[int, tuple[Extent, ...]]:
    """Give the size of a file, and what of it holds bytes."""
    found = os.fstat(file)
    if found.st_blocks * 512 >= found.st_size:
        return found.st_size, ((0, found.st_size),) if found.st_size else ()
    return found.st_size, tuple(_joined(_data_of(file, found.st_size), found.st_size))


def digest_of(file: int, extents: Iterable[Extent], is_wanted: Callable[[], bool] = lambda: True) -> bytes | None:
    """Give the SHA-256 of parts of a file; None where it ends before them, or nobody wants it any more."""
    digest = hashlib.sha256()
    for start, length in extents:
        end = start + length
        while start < end:
            block = os.pread(file, min(_BLOCK_BYTES, end - start), start)
            if not block or not is_wanted():
                return None
            digest.update(block)
            start += len(block)
    return digest.digest()


def is_content(file: int, entry: TreeFile) -> bool:
    """Say whether a file holds what an entry says: its bytes, and zeros everywhere else."""
    size, extents = extents_of(file)
    return (
        size == entry.size
        and all(_is_zeros(file, start, end) for start, end in _outside(extents, entry.extents))
        and digest_of(file, entry.extents) == entry.sha256
    )


def _data_of(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Give where bytes begin and end, as far as the file system knows."""
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
            at = min(size, os.lseek(file, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, at = at, size
        if start < at:
            yield start, at


def _joined(found: Iterable[tuple[int, int]], size: int) -> list[Extent]:
    extents: list[Extent] = []
    for start, end in found:
        last = sum(extents[-1]) if extents else -SMALLEST_HOLE_BYTES
        if start - last < SMALLEST_HOLE_BYTES:
            extents[-1] = (extents[-1][0], end - extents[-1][0])
        elif len(extents) == MAX_EXTENTS_OF_FILE - 1:
            return [*extents, (start, size - start)]
        else:
            extents.append((start, end - start))
    return extents


def _outside(found: Iterable[Extent], named: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    """Give what is in ``found`` and not in ``named``; both are in order."""
    ahead = [*named]
    at = 0
    for start, length in found:
        end = start + length
        while at < len(ahead) and sum(ahead[at]) <= start:
            at += 1
        for begun, count in ahead[at:]:
            if begun >= end:
                break
            if start < begun:
                yield start, begun
            start = max(start, begun + count)
        if start < end:
            yield start, end


def _is_zeros(file: int, start: int, end: int) -> bool:
    while start < end:
        block = os.pread(file, min(_BLOCK_BYTES, end - start), start)
        if not block or block.count(0) != len(block):
            return False
        start += len(block)
    return True
