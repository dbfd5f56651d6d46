"""What a host shows its guest, put where it belongs: from a drive, or a file. Blocking.

Its SHA-256 the host has found right; here its size and CRC-32 are, so that what a disk or the way has done to it shows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from broker import durable, reserve
from broker.transfer.locks import open_locked
from schemas.inputs import InputOutcome, InputReady, Medium

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20
#: Where the kernel lists the drives that there are, each with the model that its maker says.
BLOCKS = Path("/sys/block")
#: Where a host puts files for a guest agent that is a process, in its state directory.
FILES = "host-inputs"


def take(state: Path, ready: InputReady, target: Path) -> InputOutcome:
    """Have what is shown under ``target``, durably, if it is what the host has told; else nothing is there.

    Raises OSError for a disk of our own that has no room.
    """
    source = _source(state, ready)
    if source is None:
        log.warning("no such medium here", extra={"medium": ready.medium, "name_of_it": ready.name})
        return InputOutcome.UNREAD
    partial = target.with_name(f".{target.name}.shown")
    reserve.demand(target.parent, ready.size)
    file = open_locked(partial)
    try:
        os.ftruncate(file, 0)
        outcome = _copy(source, ready, file)
        if outcome is InputOutcome.READ:
            with durable.naming(partial):
                os.fsync(file)
                partial.replace(target)
                durable.sync_directory(target.parent)
        return outcome
    finally:
        partial.unlink(missing_ok=True)
        os.close(file)


def _source(state: Path, ready: InputReady) -> Path | None:
    """Find the medium; None for one that there is not, or that this agent does not know."""
    if ready.medium == Medium.FILE:
        return state / FILES / Path(ready.name).name
    return find_drive(ready.name) if ready.medium == Medium.DISK else None


def find_drive(model: str, blocks: Path = BLOCKS) -> Path | None:
    """Find the device of a drive; its name depends on the machine, so it is looked up by its model."""
    for entry in sorted(blocks.glob("*/device/model")):
        if entry.read_text(errors="replace").strip() == model:
            return Path("/dev", entry.parent.parent.name)
    return None


def _copy(source: Path, ready: InputReady, target: int) -> InputOutcome:
    crc32 = written = 0
    pieces = _pieces(source, ready)
    while True:
        try:
            piece = next(pieces, None)
        except OSError as error:
            log.warning("what the host shows cannot be read", extra={"path": str(source), "why": str(error)})
            return InputOutcome.UNREAD
        if piece is None:
            break
        crc32 = zlib.crc32(piece, crc32)
        durable.write_sparse(target, piece, written)
        written += len(piece)
    is_right = written == ready.size and crc32 == ready.crc32
    return InputOutcome.READ if is_right else InputOutcome.DAMAGED


def _pieces(source: Path, ready: InputReady) -> Iterator[memoryview]:
    """Yield the file's bytes: those that the medium has, and the end that was told. The next piece is where the one
    before was."""
    left = ready.size - len(ready.tail)
    # Past the page cache: it is read once, and an emulated processor copies slowly. Whole pages are read so.
    room = memoryview(mmap.mmap(-1, _READ_BYTES))
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _read_directly(descriptor, is_direct=True)
        while left > 0 and (count := min(left, _read(descriptor, room))):
            left -= count
            yield room[:count]
    finally:
        os.close(descriptor)
    yield memoryview(ready.tail)


def _read(descriptor: int, room: memoryview) -> int:
    try:
        return os.readv(descriptor, [room])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _read_directly(descriptor, is_direct=False)  # where the file ends within a sector, say
        return os.readv(descriptor, [room])


def _read_directly(descriptor: int, *, is_direct: bool) -> None:
    """Have the page cache left out, or not; a file system that cannot leave it out does not."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
