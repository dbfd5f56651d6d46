"""Which files may run on a volunteer's machine: those that the project has signed, and nothing that came with a job.

A file is signed when it lies in the project's directory under a name that the client lists among the files of the
application's version, or was unpacked from an archive that does. Never judged by what a job could have written.
"""

from __future__ import annotations

from pathlib import Path

from host_agent.boinc.init_data import InitData
from host_agent.boinc.slot_files import resolve


class SignedFiles:
    """See the module. ``data`` None: nobody started us but a person, whose files they are."""

    def __init__(self, slot: Path, data: InitData | None) -> None:
        self._slot, self._data = slot, data
        #: What was unpacked from signed archives: paths in the slot.
        self._unpacked: set[Path] = set()

    def unpacked(self, archive: str, names: list[str]) -> None:
        """Note what came out of an archive; what comes out of one that is not signed is not, whatever lay there."""
        paths = {(self._slot / name).absolute() for name in names}
        self._unpacked = self._unpacked | paths if not self.refusal(archive) else self._unpacked - paths

    def refusal(self, name: str) -> str:
        """Say why a file of the slot, or a path in the project's directory, may not be run; empty if it may."""
        if self._data is None:
            return ""
        if (self._slot / name).absolute() in self._unpacked and not (self._slot / name).is_symlink():
            return ""
        if not self._data.app_files:
            return "the BOINC client does not say which files the project has signed; a newer client does"
        project = Path(self._data.project_dir).resolve()
        path = resolve(self._slot, name)
        target = path.parent.resolve() / path.name
        if target.parent != project:
            return f"it is not a file of the project's directory but {target}: what comes with a job is not run here"
        if target.name not in self._data.app_files:
            return f"{target.name} is none of the files that the project has signed"
        return "it is a link to elsewhere" if target.is_symlink() else ""
