"""Archives that a task begins with and ends with: unpacked into the slot once, packed of what is new in it.

What an archive says of itself is a stranger's word: nothing leaves the slot, nothing takes the place of what lies
there, and all together are no larger than the task may be.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import os
import re
import shutil
import signal
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import msgspec

from broker import durable
from host_agent.boinc.plan import ZipOutput
from host_agent.boinc.slot_files import is_reserved
from host_agent.boinc.slot_names import open_plain
from host_agent.errors import BadArchive, BadName

#: What was unpacked; what is being unpacked; what lay in the slot before the first task.
NOTE, BEGUN, FIRST_FILES = "host_agent_unzipped.json", "host_agent_unzipping.json", "initial_file_list"
#: Entries of all archives, and what they may hold together where the task has no bound, bytes.
MOST_ENTRIES, MOST_BYTES = 100_000, 100 << 30
#: How long a pattern may take with all names, seconds.
MATCH_S = 2.0
_PIECE_BYTES = 1 << 20
_MOST_OF_A_NAME = 255
_SCRATCH = "host_agent_zip"
#: No room, for now: what fails so is tried again.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError)


class _Begun(msgspec.Struct):
    """Names that are to be laid into the slot: what was begun may be begun again over them."""

    names: list[str] = []


def unpack_once(
    slot: Path, archives: Sequence[tuple[str, Path]], bound_bytes: float, pause: Callable[[], None]
) -> None:
    """Unpack archives, each a name and its file, into the slot, unless that was done before.

    ``pause`` is called again and again; what it raises breaks the work off, which is done again the next time. Raises
    BadArchive too, and OSError where there is no room.
    """
    if not archives or (slot / NOTE).exists():
        return
    begun = _begun(slot)
    left, targets = bound_bytes or MOST_BYTES, list[Path]()
    for name, path in archives:
        with _reading(name, path) as archive:
            targets += [_target(slot, name, one.filename) for one in archive.infolist() if not one.is_dir()]
            left -= sum(one.file_size for one in archive.infolist())
        if len(targets) > MOST_ENTRIES or left < 0:
            raise BadArchive(f"{name}: with it there are {len(targets)} files, or more bytes than the task may have")
    for target in targets:
        if (target.exists() or target.is_symlink()) and str(target.relative_to(slot)) not in begun:
            raise BadArchive(f"{target.relative_to(slot)}: an archive holds it, and it is in the slot already")
    names = [str(target.relative_to(slot)) for target in targets]
    durable.replace(slot / BEGUN, msgspec.json.encode(_Begun(names)), mode=0o644)
    for name, path in archives:
        with _reading(name, path) as archive:
            for entry in archive.infolist():
                _extract(archive, entry, _target(slot, name, entry.filename), pause)
    _sync(slot)
    durable.replace(slot / NOTE, b"{}", mode=0o644)


def note_first_files(slot: Path) -> None:
    """Note what lies in the slot before the first task, once."""
    if not (slot / FIRST_FILES).exists():
        names = "\n".join(sorted(os.listdir(slot)))  # noqa: PTH208  names alone
        durable.replace(slot / FIRST_FILES, names.encode(errors="surrogateescape"), mode=0o644)


def chosen(slot: Path, output: ZipOutput) -> list[str]:
    """Name what goes into an archive: files that are new in the slot and called as its patterns say.

    In the main thread, for no longer than ``MATCH_S``: a pattern may take for ever. Raises BadArchive, OSError.
    """
    patterns = [re.compile(pattern) for pattern in output.patterns]
    with _no_longer_than(MATCH_S, f"{output.archive}: the patterns of its <filename> take too long"):
        return [name for name in _new_files(slot) if any(pattern.search(name) for pattern in patterns)]


def pack(slot: Path, archive: str, names: Sequence[str], target: Path, pause: Callable[[], None]) -> None:
    """Pack files of the slot into ``target``; one that is there already is left alone. ``pause`` as with unpacking.
    Raises BadArchive, OSError: then there is none."""
    if target.exists():
        return
    scratch = slot / _SCRATCH
    scratch.unlink(missing_ok=True)
    try:
        with scratch.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            for name in names:
                _add(made, slot / name, name, pause)
        _move(scratch, target)
    except BadName as error:
        raise BadArchive(str(error)) from error
    except (*_BROKEN, ValueError) as error:
        raise BadArchive(f"{archive}: could not be packed: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _add(made: zipfile.ZipFile, path: Path, name: str, pause: Callable[[], None]) -> None:
    entry = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with (
        os.fdopen(open_plain(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source,
        made.open(entry, "w", force_zip64=True) as file,
    ):
        while piece := source.read(_PIECE_BYTES):
            pause()
            file.write(piece)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        durable.sync_file_system(descriptor)
    finally:
        os.close(descriptor)


def _begun(slot: Path) -> frozenset[str]:
    try:
        return frozenset(msgspec.json.decode((slot / BEGUN).read_bytes(), type=_Begun).names)
    except (FileNotFoundError, msgspec.MsgspecError):
        return frozenset()


@contextlib.contextmanager
def _reading(name: str, path: Path) -> Iterator[zipfile.ZipFile]:
    """Read an archive: whatever is wrong with it, but for a lack of room, is BadArchive."""
    try:
        with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise BadArchive(f"{name}: is to be unpacked, and is not there: {error.filename}") from error
    except BadName as error:
        raise BadArchive(str(error)) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise BadArchive(f"{name}: cannot be unpacked: {error}") from error
    except (*_BROKEN, EOFError, ValueError) as error:
        raise BadArchive(f"{name}: is no zip archive that can be unpacked: {error}") from error


def _target(slot: Path, archive: str, name: str) -> Path:
    """Say where an entry goes. Raises BadArchive for one that would lie elsewhere, or in place of what is ours."""
    parts = Path(name).parts
    target = slot.joinpath(*parts)
    parents = [parent for parent in target.parents if slot in parent.parents]
    if name.startswith(("/", "\\")) or ".." in parts or any(parent.is_symlink() for parent in parents):
        raise BadArchive(f"{archive}: {name[:100]!r} in it leads out of the slot directory")
    if any(len(os.fsencode(part)) > _MOST_OF_A_NAME for part in parts):
        raise BadArchive(f"{archive}: {name[:100]!r} in it is too long for a name")
    if parts and is_reserved(name):
        raise BadArchive(f"{archive}: {name[:100]!r} in it is a name of BOINC's or of the agent's")
    return target


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, pause: Callable[[], None]) -> None:
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if not target.name or target == target.parent:
        raise BadArchive(f"{entry.filename[:100]!r}: is no name of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, target.open("xb") as file:
        while piece := source.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise BadArchive(f"{entry.filename[:100]!r} is longer than the archive says")
            pause()
            file.write(piece)
    target.chmod(0o755 if (entry.external_attr >> 16) & 0o111 else 0o644)


def _new_files(slot: Path) -> Iterator[str]:
    try:
        first = set((slot / FIRST_FILES).read_bytes().decode(errors="surrogateescape").split("\n"))
    except FileNotFoundError:
        first = set()
    for name in sorted(os.listdir(slot)):  # noqa: PTH208  names alone
        path = slot / name
        if name not in first and not is_reserved(name) and not path.is_symlink() and path.is_file():
            yield name


def _move(scratch: Path, target: Path) -> None:
    """Put a file where it belongs, also on another disk."""
    beside = durable.beside(target, "zip")
    try:
        shutil.copyfile(scratch, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _no_longer_than(seconds: float, why: str) -> Iterator[None]:
    """Break the block off after a time, wherever it is. Raises BadArchive then."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise BadArchive(why)

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread can be broken off")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
