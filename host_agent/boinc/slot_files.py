"""The files by which an application speaks in its slot, and how a logical name leads to a file. Pure but for reading
a link. Source: ``api/boinc_api.cpp``, ``lib/app_ipc.cpp``, ``client/app_control.cpp``."""

from __future__ import annotations

import os
import re
from pathlib import Path

INIT_DATA, LOCK_FILE, SHARED_MEMORY = "init_data.xml", "boinc_lockfile", "boinc_mmap_file"
FINISHED, TEMPORARY_EXIT = "boinc_finish_called", "boinc_temporary_exit"
TRICKLE_UP, GRAPHICS_STATUS = "trickle_up.xml", "graphics_status.xml"
#: Before the logical name of an output: it is to be uploaded now; so its upload ended.
UPLOAD_NOW, UPLOAD_STATUS = "boinc_ufr_", "boinc_ufs_"
TRICKLE_DOWN = "trickle_down_"

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


def resolve(slot: Path, name: str) -> Path:
    """Find the file behind a logical name: by the client's link, a text or a symbolic one, or else the file itself.

    An output's link leads to what is not there yet. Raises OSError for what is there and cannot be read.
    """
    path = slot / name
    target = link_target(path)
    return path if target is None else slot / target


def link_target(path: Path) -> str | None:
    """Give where a link of the client's leads, as it says it; None for a file that is no link, or is not there."""
    if path.is_symlink():
        return os.readlink(path)  # noqa: PTH115  as it is said, not as Path would write it
    try:
        with path.open("rb") as file:
            found = _SOFT_LINK.match(file.read(_LINK_BYTES))
    except (FileNotFoundError, IsADirectoryError):
        return None
    return None if found is None else os.fsdecode(found[1].strip())


def _line(text: str) -> str:
    return " ".join(text.split())
