"""Writing files so that what was said to be written is there: every byte accounted for, synced, its directory synced.

The one place where the product writes what it later believes. A full disk is an ``OSError`` that names the file, and
leaves the old content as it was. Knows bytes and paths, not what they mean.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: Mode of what only its owner may read.
PRIVATE = 0o600
#: Read and written at a time by ``copy``: small enough that holes are found, bytes.
BLOCK_BYTES = 64 * 1024


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write every byte of ``data``, at ``offset`` or where the descriptor stands; syncing is the caller's.

    The kernel may take a part and say so by its count alone, which is what a disk that is nearly full does. Raises
    OSError; how much is there then is unknown.
    """
    left = memoryview(data).cast("B")
    while left:
        count = os.write(descriptor, left) if offset is None else os.pwrite(descriptor, left, offset)
        left = left[count:]
        if offset is not None:
            offset += count


def replace(path: Path, body: bytes | memoryview, *, mode: int = PRIVATE) -> None:
    """Put ``body`` in the file ``path``, making its directory. On return it would survive a power cut.

    On failure, OSError with the path, the file is whole as it was, and no other one is left.
    """
    with naming(path):
        make_directory(path.parent)
        # In a directory that others may write to, a name that can be foretold is theirs before it is ours.
        fresh = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
        try:
            _write_new(fresh, body, mode)
            fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Have on the disk what anybody has written to a file. Raises OSError naming it."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: those that were made, renamed and removed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, the name of each durable. Idempotent. Raises OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_directory(one.parent)


def copy(source: Path, target: Path, *, mode: int = PRIVATE) -> None:
    """Copy a file into a new one, its holes kept; on return its bytes are on the disk, its name need not be.

    Raises OSError that names the file, and leaves nothing of the target then.
    """
    with source.open("rb") as file, naming(target):
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            offset = 0
            while block := file.read(BLOCK_BYTES):
                write_sparse(descriptor, block, offset)
                offset += len(block)
            os.fsync(descriptor)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def write_sparse(descriptor: int, data: bytes, offset: int) -> None:
    """Write at the end of a file, ``offset``; nothing but zeros becomes a hole, which takes no room. Raises OSError."""
    if data == bytes(len(data)):
        os.ftruncate(descriptor, offset + len(data))
    else:
        write_all(descriptor, data, offset)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file name this one: calls on descriptors do not know theirs."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _write_new(path: Path, body: bytes | memoryview, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        write_all(descriptor, body)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
