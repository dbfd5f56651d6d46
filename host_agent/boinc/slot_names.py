"""What a logical name of a job stands for: a file in the slot, or one of the project's by a link of the client's.

Who writes a job decides names, and what lies in the slot; so a link leads into the project's directory or nowhere,
what is written is none of the files that the project has signed, and what is ours, or the client's, is nobody's output.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from host_agent.boinc.init_data import InitData
from host_agent.boinc.slot_files import INIT_DATA, link_target
from host_agent.errors import BadName


class SlotNames:
    """See the module. ``data`` None: nobody started us but a person; there are no links of a client's then."""

    def __init__(self, slot: Path, data: InitData | None) -> None:
        self.slot = slot.resolve()
        self.app_files = frozenset(data.app_files if data is not None else ())
        self.has_client = data is not None
        self._result = data.result_name if data is not None else ""
        #: Names in the slot that are what signed archives hold.
        self.kept: frozenset[str] = frozenset()
        #: The project's directory; None where the client names none that makes sense.
        self.project = _project_of(self.slot, data) if data is not None else None

    def project_path(self, name: str) -> Path:
        """Give a file of the project's directory, by its name there. Raises BadName."""
        if self.project is None:
            raise BadName(f"{name}: there is no project's directory here")
        if "/" in name or name in ("", ".", ".."):
            raise BadName(f"{name}: must be the name of a file in the project's directory")
        return self.project / name

    def linked(self, name: str) -> Path | None:
        """Give where a link of the client's leads; None for what is no link. Raises BadName for one that leads
        elsewhere than into the project's directory; OSError."""
        if not self.has_client:
            return None
        path = self.slot / name
        target = link_target(path)
        if target is None:
            return None
        # The client writes its links as they lead from the slot, at whatever depth they lie.
        found = Path(os.path.normpath((path.parent if path.is_symlink() else self.slot) / target))
        if self.project is None or found.parent.resolve() != self.project or not found.name:
            raise BadName(f"{name}: leads to {found}, which is not in the project's directory")
        return self.project / found.name

    def source(self, name: str) -> Path:
        """Give the file that is read under a name. Raises BadName, also where the account's secret is; OSError."""
        if self.has_client and Path(name).name == INIT_DATA:
            raise BadName(f"{name}: is the client's word to the agent, and is handed to nobody")
        if self.has_client and not self.is_inside((self.slot / name).parent):
            raise BadName(f"{name}: leads out of the slot directory")
        if (linked := self.linked(name)) is not None:
            return linked
        if self.has_client and not self.is_inside(self.slot / name):
            raise BadName(f"{name}: is a link out of the slot directory that is none of the client's")
        return self.slot / name

    def is_output(self, path: Path) -> bool:
        """Whether a file of the project's directory is an output of this result: what it holds the job decides."""
        return bool(self._result) and path.name.startswith(self._result)

    def target(self, name: str) -> Path:
        """Give the file that is written under a name: one of this result's in the project's directory, or one in the
        slot that is no link and came out of no signed archive. Raises BadName, OSError."""
        linked = self.linked(name)
        if linked is None:
            path = self.slot / name
            if self.has_client and (path.is_symlink() or self.is_inside(path.parent) is False):
                raise BadName(f"{name}: is, or lies behind, a link that is none of the client's")
            if os.path.normpath(name) in self.kept:
                raise BadName(f"{name}: came out of an archive that the project has signed: nothing is written there")
            return path
        if linked.name in self.app_files:
            raise BadName(f"{name}: leads to {linked.name}, which the project has signed: nothing is written there")
        if not self.is_output(linked):
            raise BadName(f"{name}: leads to {linked.name}, which is no output of {self._result or 'this result'}")
        return linked

    def is_inside(self, path: Path) -> bool:
        """Whether a path leads into the slot, whatever links there are on its way."""
        found = path.resolve()
        return found == self.slot or self.slot in found.parents


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
