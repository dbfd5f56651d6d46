"""The agent as one program that unpacks itself: what of that shall not reach others, nor lie about.

PyInstaller's starter is the process that the client knows, and we are its child: it passes signals on, and if it is
killed it passes none. It puts where it has unpacked to before the path of libraries, for us alone.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

_SET_DEATH_SIGNAL = 1
_UNPACKED = "_MEI*"
_LIBRARIES = "LD_LIBRARY_PATH"


def is_frozen() -> bool:
    """Whether we are such a program."""
    return bool(getattr(sys, "frozen", False))


def environment() -> dict[str, str]:
    """Give the environment as it was when we were started, but that libraries come from absolute places only: the
    client names the slot and the project's directory, which jobs fill, as they lead from wherever a program stands."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("_PYI_", "_MEIPASS"))}
    if is_frozen():
        before = found.pop(f"{_LIBRARIES}_ORIG", "")
        found.pop(_LIBRARIES, None)
        if before:
            found[_LIBRARIES] = before
    places = [one for one in found.pop(_LIBRARIES, "").split(":") if one.startswith("/")]
    return found | ({_LIBRARIES: ":".join(places)} if places else {})


def end_with_starter() -> None:
    """Be told to end, as by SIGTERM, when the starter is gone, however it ended."""
    if is_frozen():
        starter = os.getppid()
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != starter:
            os.kill(os.getpid(), signal.SIGTERM)


def clear_unpacked(slot: Path) -> None:
    """Remove what programs before us have unpacked into the slot and were killed before they removed it. The slot is
    ours alone."""
    own = Path(getattr(sys, "_MEIPASS", "/")).resolve()
    for path in slot.glob(_UNPACKED):
        if path.is_dir() and not path.is_symlink() and path.resolve() != own:
            shutil.rmtree(path, ignore_errors=True)
