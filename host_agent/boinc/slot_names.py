"""What a logical name of a job stands for: a file in the slot, or one of the project's by a link of the client's.

Who writes a job decides names, and what lies in the slot; so a link leads into the project's directory or nowhere,
what is written is none of the files that the project has signed, and what is ours, or the client's, is nobody's output.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from host_agent.boinc.init_data import InitData
from host_agent.boinc.slot_files import link_target
from host_agent.errors import BadName


class SlotNames:
    """See the module. ``data`` None: nobody started us but a person; there are no links of a client's then."""

    def __init__(self, slot: Path, data: InitData | None) -> None:
        self.slot = slot.resolve()
        self.app_files = frozenset(data.app_files if data is not None else ())
        self.has_client = data is not None
        self._project = _project_of(self.slot, data) if data is not None else None

    def project_path(self, name: str) -> Path:
        """Give a file of the project's directory, by its name there. Raises BadName."""
        if self._project is None:
            raise BadName(f"{name}: there is no project's directory here")
        if "/" in name or name in ("", ".", ".."):
            raise BadName(f"{name}: must be the name of a file in the project's directory")
        return self._project / name

    def linked(self, name: str) -> Path | None:
        """Give where a link of the client's leads; None for what is no link. Raises BadName for one that leads
        elsewhere than into the project's directory; OSError."""
        if not self.has_client:
            return None
        path = self.slot / name
        target = link_target(path)
        if target is None:
            return None
        found = Path(os.path.normpath(path.parent / target))
        if self._project is None or found.parent.resolve() != self._project or not found.name:
            raise BadName(f"{name}: leads to {found}, which is not in the project's directory")
        return self._project / found.name

    def source(self, name: str) -> Path:
        """Give the file that is read under a name. Raises BadName, OSError."""
        return self.linked(name) or self.slot / name

    def target(self, name: str) -> Path:
        """Give the file that is written under a name. Raises BadName, also for what the project has signed; OSError."""
        linked = self.linked(name)
        if linked is None:
            path = self.slot / name
            if self.has_client and path.is_symlink():
                raise BadName(f"{name}: is a link that is none of the client's")
            return path
        if linked.name in self.app_files:
            raise BadName(f"{name}: leads to {linked.name}, which the project has signed: nothing is written there")
        return linked


def open_plain(path: Path, flags: int) -> int:
    """Open a regular file, or what takes anything, and never wait for somebody at a pipe's other end. Raises OSError;
    BadName for what is no file."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or os.path.samestat(os.fstat(descriptor), os.stat(os.devnull)):  # noqa: PTH116
        return descriptor
    os.close(descriptor)
    raise BadName(f"{path}: is no file")


def _project_of(slot: Path, data: InitData) -> Path | None:
    """Give the project's directory, as the client says it; None where that makes no sense: nothing is in it then."""
    path = Path(data.project_dir)
    if not data.project_dir or not path.is_absolute() or not path.is_dir():
        return None
    found = path.resolve()
    return None if found == slot or slot in found.parents else found
