"""The directory ``shared`` of a slot, as a job of vboxwrapper's has it: what goes into the guest, and what comes out.

The guest's job runs in it; what is there when the job begins goes in, and what is an output of the task comes out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from broker import durable
from host_agent.boinc.arguments import Arguments
from host_agent.boinc.job_xml import name_in_guest
from host_agent.boinc.markup import Tag
from host_agent.boinc.plan import GuestPlan, SharedPlan
from host_agent.boinc.slot_names import SlotNames, open_plain
from host_agent.boinc.vbox_job import PROGRAM, SHARED
from host_agent.errors import BadName, JobFileError
from schemas.description import MAX_INPUTS
from schemas.jobs import MOST_TOLD

log = logging.getLogger(__name__)

_CMDLINE = "cmdline"


class SharedDirectory:
    """See the module."""

    def __init__(self, names: SlotNames, arguments: Arguments) -> None:
        self._names, self._arguments = names, arguments

    def settle(self, guest: GuestPlan, shared: SharedPlan, line: int) -> GuestPlan:
        """Lay the directory out, and give the plan with what is in it. Blocking. Raises JobFileError, OSError."""
        try:
            for name in shared.copies:
                self._copy(name)
            if shared.has_arguments:
                words = " ".join(self._arguments.passed_on)
                durable.replace(self._target(_CMDLINE), words.encode(), mode=0o644)
        except BadName as error:
            raise JobFileError(line, "copy_to_shared", str(error)) from error
        inputs, outputs = list[str](), list[str]()
        speaks = frozenset(shared.names)
        for name in self._found(line):
            if name in speaks:
                continue  # what a job of before has said
            (outputs if self.is_output(f"{SHARED}/{name}") else inputs).append(name)
        if PROGRAM not in inputs:
            text = f"there is no {PROGRAM} in {SHARED}: that is what is run; other images are VirtualBox's"
            raise JobFileError(line, "enable_shared_directory", text)
        wanted = tuple(dict.fromkeys((*outputs, *shared.uploads)))
        if len(told := {*shared.names, *wanted}) >= MOST_TOLD:
            text = f"{len(told)} outputs and files by which the job speaks; at most {MOST_TOLD - 1}"
            raise JobFileError(line, SHARED, text)
        return msgspec.structs.replace(guest, inputs=tuple(inputs), outputs=wanted)

    def logical(self, name: str) -> str:
        """Give the logical name of a file of the directory; of an output that goes early it may be its own."""
        return name if self.is_output(name) else f"{SHARED}/{name}"

    def is_output(self, logical: str) -> bool:
        """Whether a logical name is an output of the task."""
        try:
            return self._names.linked(logical) is not None and bool(self._names.target(logical))
        except (BadName, OSError):
            return False

    def _copy(self, name: str) -> None:
        target = self._target(name)
        if target.exists():
            return
        source = self._names.source(name)
        os.close(open_plain(source, os.O_RDONLY))
        durable.make_directory(target.parent)
        durable.copy(source, target, mode=0o644)

    def _target(self, name: str) -> Path:
        (self._names.slot / SHARED).mkdir(exist_ok=True)
        return self._names.target(f"{SHARED}/{name}")

    def _found(self, line: int) -> Iterator[str]:
        """Name the files in the directory that can go into a guest. Raises JobFileError."""
        root = self._names.slot / SHARED
        if not root.is_dir() or root.is_symlink():
            raise JobFileError(line, "enable_shared_directory", f"there is no directory {SHARED} in the slot")
        count = 0
        for place, directories, files in os.walk(root):
            directories.sort()
            for file in sorted(files):
                name = str(Path(place, file).relative_to(root))
                try:
                    name_in_guest(Tag(SHARED, line, name))
                except JobFileError as error:
                    log.warning("a file of %s does not go into the guest: %s", SHARED, error)
                    continue
                count += 1
                if count > MAX_INPUTS:
                    raise JobFileError(line, SHARED, f"more than {MAX_INPUTS} files: make an archive of them")
                yield name
