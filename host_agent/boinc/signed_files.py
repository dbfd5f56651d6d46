"""Which files may run on a volunteer's machine: those that the project has signed, and nothing that came with a job.

A program is signed when a link of the client's leads to a file in the project's directory whose name the client lists
among the files of the application's version, or when it is, byte by byte, what an archive holds that is such a file.
Nothing that lies in the slot is believed: whoever writes a job decides what does.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from host_agent.boinc.slot_names import SlotNames, open_plain
from host_agent.errors import BadName

_PIECE_BYTES = 1 << 20
_PROJECT_DIR = "$PROJECT_DIR/"


class SignedFiles:
    """See the module. Made before anything of the job is unpacked, or run."""

    def __init__(self, names: SlotNames, archives: Sequence[str]) -> None:
        """``archives`` are those that are unpacked; which of them are signed is settled here. Raises OSError."""
        self._names = names
        #: By normal name in the slot: the archive, and the name in it.
        self._entries: dict[str, tuple[Path, str]] = {}
        for archive in archives:
            with contextlib.suppress(BadName):
                path = names.linked(archive)
                if path is not None and self.is_signed(path):
                    self._entries |= {os.path.normpath(name): (path, name) for name in _names_in(path)}
        names.kept = frozenset(self._entries)

    def is_signed(self, path: Path) -> bool:
        """Whether a file is one of the project's directory, and signed."""
        is_its = path.parent == self._names.project and path.name in self._names.app_files
        return is_its and path.is_file() and not path.is_symlink()

    def program(self, application: str) -> Path:
        """Give the program that a job file names. Raises BadName where it is not there, or may not be run; OSError."""
        names = self._names
        if application.startswith(_PROJECT_DIR):
            return self._demanded(names.project_path(application.removeprefix(_PROJECT_DIR)))
        if not names.has_client:
            path = names.slot / application
            if not path.is_file():
                raise BadName(f"is not there: {path}")
            return path
        linked = names.linked(application)
        if linked is not None:
            return self._demanded(linked)
        path = names.slot / application
        if not path.exists():
            raise BadName(f"is not there: {path}")
        if os.path.normpath(application) not in self._entries:
            raise BadName("is not run: it came with the job, and the project has not signed it")
        archive, entry = self._entries[os.path.normpath(application)]
        if not _is_entry(path, entry, names.slot, archive):
            raise BadName("is not run: it is not what the project's archive holds any more")
        return path

    def _demanded(self, path: Path) -> Path:
        if not path.exists() and not path.is_symlink():
            raise BadName(f"is not there: {path}")
        if not self._names.app_files:
            raise BadName("is not run: the BOINC client does not say what the project has signed; a newer one does")
        if not self.is_signed(path):
            raise BadName(f"is not run: {path.name} is none of the files that the project has signed")
        return path


def _names_in(archive: Path) -> list[str]:
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError):
        with zipfile.ZipFile(archive) as opened:
            return [one.filename for one in opened.infolist() if not one.is_dir()]
    return []


def _is_entry(path: Path, name: str, slot: Path, archive: Path) -> bool:
    """Whether a file of the slot is what an archive has under that name: a job may have written there since."""
    if path.is_symlink() or any(parent.is_symlink() for parent in path.parents if slot in parent.parents):
        return False
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(name) as entry,
            os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file,
        ):
            while True:
                wanted, found = entry.read(_PIECE_BYTES), file.read(_PIECE_BYTES)
                if wanted != found:
                    return False
                if not wanted:
                    return True
    except (KeyError, BadName, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError):
        return False
