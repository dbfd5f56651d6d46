"""The files by which an application speaks in its slot, and a link of the client's in it. Pure but for reading a link.

Source: ``api/boinc_api.cpp``, ``lib/app_ipc.cpp``, ``client/app_control.cpp``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

INIT_DATA, LOCK_FILE, SHARED_MEMORY = "init_data.xml", "boinc_lockfile", "boinc_mmap_file"
FINISHED, TEMPORARY_EXIT = "boinc_finish_called", "boinc_temporary_exit"
TRICKLE_UP, GRAPHICS_STATUS = "trickle_up.xml", "graphics_status.xml"
#: Logical names of job files: of ``wrapper`` and VMwrapper, and of ``vboxwrapper``.
JOB, VBOX_JOB = "job.xml", "vbox_job.xml"
#: Before the logical name of an output: it is to be uploaded now; so its upload ended.
UPLOAD_NOW, UPLOAD_STATUS = "boinc_ufr_", "boinc_ufs_"
TRICKLE_DOWN = "trickle_down_"

#: What begins so, or is called so, is ours or the client's, and nobody's output.
_OURS = ("boinc_", "host_agent_", "_MEI", TRICKLE_DOWN)
_OURS_WHOLE = frozenset(
    {INIT_DATA, TRICKLE_UP, GRAPHICS_STATUS, "stderr.txt", JOB, VBOX_JOB, "wrapper_checkpoint.txt"}
    | {"initial_file_list", "temp.zip", "graphics_app"}
)

#: What the client takes as a delay, seconds; anything else is five minutes for it.
MOST_DELAY_S = 86_400
#: A link's text is read so far, as the client does it, bytes.
_LINK_BYTES = 512
_SOFT_LINK = re.compile(rb"^\s*<soft_link>([^<\n]*)</soft_link>")


def finish_text(status: int, message: str = "", *, is_notice: bool = False) -> str:
    """Give the content of ``boinc_finish_called``. The message is shown only where all three lines are there."""
    return f"{status}\n" + (f"{_line(message)}\n{'notice' if is_notice else ''}\n" if message else "")


def temporary_exit_text(delay_s: int, reason: str, *, is_notice: bool = False) -> str:
    """Give the content of ``boinc_temporary_exit``. Without a line for the reason the client takes it for none."""
    delay_s = min(max(int(delay_s), 1), MOST_DELAY_S)
    return f"{delay_s}\n{_line(reason)}\n{'notice' if is_notice else ''}\n"


def trickle_text(variety: str, body: str) -> str:
    """Give the content of ``trickle_up.xml``."""
    return f"<variety>{_line(variety)}</variety>\n{body}"


def link_target(path: Path) -> str | None:
    """Give where a link of the client's leads, as it says it; None for a file that is no link, or is not there."""
    if path.is_symlink():
        return os.readlink(path)  # noqa: PTH115  as it is said, not as Path would write it
    try:
        if not path.is_file():  # a pipe would be waited at
            return None
        with path.open("rb") as file:
            found = _SOFT_LINK.match(file.read(_LINK_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if found is None else os.fsdecode(found[1].strip())


def is_reserved(name: str) -> bool:
    """Whether a name in the slot is one that no job may have for a file of its own."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return not parts or parts[0] in _OURS_WHOLE or parts[0].startswith(_OURS)


def _line(text: str) -> str:
    return " ".join(text.split())
