"""Writing files so that what was said to be written is there: every byte accounted for, synced, its directory synced.

The one place where the product writes what it later believes. A full disk is an ``OSError`` that names the file, and
leaves the old content as it was. Knows bytes and paths, not what they mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from broker import reserve

#: Mode of what only its owner may read.
PRIVATE = 0o600
#: Read and written at a time by ``copy``: small enough that holes are found, bytes.
BLOCK_BYTES = 64 * 1024
#: What is no hole shows it early, bytes.
_TELLING_BYTES = 64
#: Of a file's name so many bytes go into that of a file beside it: with what is added it stays below the 255 of Linux.
_STEM_BYTES = 200
#: Digits at the end of the name of a file that is being written.
_TOKEN_DIGITS = 16
_UNFINISHED = re.compile(rb"\.(.+)\.[0-9a-f]{%d}" % _TOKEN_DIGITS, re.DOTALL)


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

    On failure, OSError with the path, the file is whole as it was, and no other one is left. What a writer leaves that
    is killed is ``remove_unfinished``'s, at the next start of whoever owns the directory.
    """
    with naming(path):
        make_directory(path.parent)
        with appearing(path, mode=mode) as descriptor:
            write_all(descriptor, body)


@contextlib.contextmanager
def appearing(path: Path, *, mode: int = PRIVATE) -> Iterator[int]:
    """Give a new file to write to, in a directory that is there. It has its name, durably, once the block has
    succeeded, and is gone otherwise; of a killed writer ``remove_unfinished`` removes it, and of no other. Raises
    OSError."""
    fresh, descriptor = _new(path, mode)
    try:
        yield descriptor
        os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def beside(path: Path, ending: str) -> Path:
    """Name a hidden file beside a file, after it; of a long name the beginning, so that a file system takes it."""
    return path.with_name(os.fsdecode(b".%b.%b" % (os.fsencode(path.name)[:_STEM_BYTES], os.fsencode(ending))))


def remove_unfinished(directory: Path, of: str = "") -> list[Path]:
    """Remove what killed writers have left of ``replace`` in a directory, or of one file there; give what went.

    What somebody writes just now stays, and so does anything that has no such name. Raises OSError.
    """
    stem = os.fsencode(of)[:_STEM_BYTES]
    removed = []
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _UNFINISHED.fullmatch(os.fsencode(path.name))
        if match is not None and match[1] == (stem or match[1]) and _remove_unheld(path):
            removed.append(path)
    return removed


def sync_file(path: Path) -> None:
    """Have on the disk what anybody has written to a file. Raises OSError naming it."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_large(path: Path) -> None:
    """Remove a file, durably, and wait for no more than that: what it held is given back in a thread, as that takes
    0.1 s a GiB. Succeeds when there is none. Raises OSError."""
    unlink_large(path)
    sync_directory(path.parent)


def unlink_large(path: Path) -> None:
    """As ``remove_large``, for a file that may be there again after a power cut."""
    held = -1
    with contextlib.suppress(OSError):  # then it takes its time
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
    finally:
        if held >= 0:
            _close_aside(held)


def _close_aside(descriptor: int) -> None:
    try:
        threading.Thread(target=os.close, args=(descriptor,), daemon=True).start()
    except RuntimeError:  # there is no thread to be had
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: those that were made, renamed and removed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Have on the disk all that anybody has written to the file system of an open file: for a thousand small files it
    takes a twentieth of what syncing each does. Raises OSError."""
    syncfs = getattr(_c_library(), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, the name of each durable. Idempotent. Raises OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_directory(one.parent)


def copy(source: Path, target: Path, *, mode: int = PRIVATE) -> None:
    """Copy a file into a new one, its holes kept; on return its bytes are on the disk, its name need not be.

    Raises OSError that names the file, also where it would touch the disk's reserve, and leaves nothing of the target
    then.
    """
    with source.open("rb") as file, naming(target):
        reserve.demand(target.parent, os.fstat(file.fileno()).st_blocks * 512)
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


def is_zeros(data: bytes | memoryview) -> bool:
    """Say whether it is nothing but zeros: ``write_sparse`` takes no room for it."""
    return not any(data[:_TELLING_BYTES]) and bytes(data).count(0) == len(data)


def write_sparse(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write at the end of a file, ``offset``; nothing but zeros becomes a hole, which takes no room. Raises OSError."""
    if is_zeros(data):
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


def _new(path: Path, mode: int) -> tuple[Path, int]:
    """Make a file beside a file, and lock it. One that was removed in between, as nobody's, is made anew."""
    while True:
        # In a directory that others may write to, a name that can be foretold is theirs before it is ours.
        fresh = beside(path, secrets.token_hex(_TOKEN_DIGITS // 2))
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with contextlib.suppress(OSError):  # a file system without locks, where nobody removes one
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(fresh):
            return fresh, descriptor
        os.close(descriptor)


def _remove_unheld(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # it has just got its name, or is no file
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_ours:
            path.unlink(missing_ok=True)
    except OSError:  # it is held, or nobody can say whether it is
        return False
    finally:
        os.close(descriptor)
    return is_ours
