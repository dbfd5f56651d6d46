"""Archives that a task begins with and ends with: unpacked into the slot once, packed of what is new in it.

What an archive says of itself is a stranger's word: nothing leaves the slot, and nothing is larger than the task
may be.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from broker import durable
from host_agent.boinc.plan import ZipOutput
from host_agent.boinc.slot_files import link_target, resolve
from host_agent.errors import BadArchive

#: What was unpacked, and what lay in the slot then.
NOTE, FIRST_FILES = "host_agent_unzipped.json", "initial_file_list"
#: Entries of an archive, and what they may hold together where the task has no bound, bytes.
MOST_ENTRIES, MOST_BYTES = 100_000, 100 << 30
_PIECE_BYTES = 1 << 20


class Unpacked(msgspec.Struct):
    """By each archive the names that came out of it."""

    archives: dict[str, list[str]] = {}


def unpack_once(slot: Path, names: tuple[str, ...], bound_bytes: float) -> Unpacked:
    """Unpack archives into the slot, unless that was done before; give what came out of which.

    Raises BadArchive, and OSError. Broken off it is done again, from the beginning.
    """
    note = slot / NOTE
    if not names:
        return Unpacked()
    if note.exists():
        try:
            return msgspec.json.decode(note.read_bytes(), type=Unpacked)
        except msgspec.MsgspecError:
            pass  # it is written whole or not at all: somebody else's, and so it is done again
    found = Unpacked({name: _unpack(slot, name, bound_bytes) for name in names})
    durable.replace(note, msgspec.json.encode(found), mode=0o644)
    return found


def note_first_files(slot: Path) -> None:
    """Note what lies in the slot before the first task, once."""
    if not (slot / FIRST_FILES).exists():
        names = "\n".join(sorted(os.listdir(slot)))  # noqa: PTH208  names alone
        durable.replace(slot / FIRST_FILES, names.encode(errors="surrogateescape"), mode=0o644)


def pack(slot: Path, output: ZipOutput) -> int:
    """Pack what is new in the slot and called as the patterns say; give how many files. One that is there already is
    left alone. Raises BadArchive, OSError: then there is none."""
    target = resolve(slot, output.archive)
    if target.exists() and link_target(slot / output.archive) is not None:
        return 0
    scratch, count = slot / "temp.zip", 0
    patterns = [re.compile(pattern) for pattern in output.patterns]
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for name in _new_files(slot):
                if any(pattern.search(name) for pattern in patterns):
                    archive.write(slot / name, name)
                    count += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(scratch, target)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError) as error:
        raise BadArchive(f"{output.archive}: could not be packed: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _move(scratch: Path, target: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)


def _new_files(slot: Path) -> Iterator[str]:
    try:
        first = set((slot / FIRST_FILES).read_bytes().decode(errors="surrogateescape").split("\n"))
    except FileNotFoundError:
        first = set()
    first |= {FIRST_FILES, NOTE, "temp.zip"}
    for name in sorted(os.listdir(slot)):  # noqa: PTH208  names alone
        if name not in first and (slot / name).is_file() and not (slot / name).is_symlink():
            yield name


def _unpack(slot: Path, name: str, bound_bytes: float) -> list[str]:
    most = bound_bytes or MOST_BYTES
    try:
        with zipfile.ZipFile(resolve(slot, name)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES or sum(one.file_size for one in entries) > most:
                raise BadArchive(f"{name}: {len(entries)} files, or more than the {most:.0f} bytes of the task")
            targets = [(one, _target(slot, name, one.filename)) for one in entries]
            for entry, target in targets:
                _extract(archive, entry, target)
    except FileNotFoundError as error:
        raise BadArchive(f"{name}: is to be unpacked, and is not there: {error.filename}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BadArchive(f"{name}: is no zip archive that can be unpacked: {error}") from error
    return [str(target.relative_to(slot)) for entry, target in targets if not entry.is_dir()]


def _target(slot: Path, archive: str, name: str) -> Path:
    """Say where an entry goes. Raises BadArchive for one that would lie elsewhere, or in place of what is ours."""
    target = slot / name
    parents = [parent for parent in target.parents if slot in parent.parents]
    if name.startswith(("/", "\\")) or ".." in Path(name).parts or any(parent.is_symlink() for parent in parents):
        raise BadArchive(f"{archive}: {name[:100]!r} in it leads out of the slot directory")
    if Path(name).parts and Path(name).parts[0].startswith(("boinc_", "init_data.xml", "host_agent_")):
        raise BadArchive(f"{archive}: {name[:100]!r} in it would lie in place of a file of BOINC's")
    return target


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, target.open("xb") as file:
        while piece := source.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise BadArchive(f"{entry.filename[:100]!r} is longer than the archive says")
            file.write(piece)
    target.chmod(0o755 if (entry.external_attr >> 16) & 0o111 else 0o644)
