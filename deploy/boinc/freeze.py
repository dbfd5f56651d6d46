"""Makes one program of ``host_agent`` and the Python that it needs, by PyInstaller.

It unpacks itself into the directory in which it is started, a slot, which BOINC's client clears: a program that is
killed leaves nothing elsewhere. It needs the C library of the machine that made it, or a newer one.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

#: The version of BOINC's application interface that the agent speaks. A project's ``update_versions`` looks for such a
#: line in a main program; frozen, it would be hidden.
API_VERSION = "7.24.0"
_ROOT = Path(__file__).parents[2]
_ENTRY = Path(__file__).with_name("entry.py")
#: Of the standard library, and of what is installed, what no agent loads: they are half of the program.
_LEFT_OUT = ("tkinter", "unittest", "pydoc", "sqlite3", "lib2to3", "test", "setuptools", "pip", "curses")
_LEFT_OUT_TOO = ("kombu", "amqp", "sqlalchemy", "alembic", "psycopg", "PIL", "rich", "click", "h11", "fsspec")


class NotFrozen(Exception):
    """The program could not be made; the text says why."""


def freeze(target: Path) -> None:
    """Make the program ``target``, in place of one there is. Raises NotFrozen, OSError: nothing is changed then."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = _made(Path(scratch))
        with made.open("ab") as file:
            file.write(f"\nAPI_VERSION_{API_VERSION}\n".encode())
        made.chmod(0o755)
        made.replace(target)


def needed_libc() -> str:
    """Say which C library the program needs at least."""
    name, version = platform.libc_ver()
    return f"{name or 'libc'} {version}".strip()


def _made(scratch: Path) -> Path:
    words = [
        *(sys.executable, "-m", "PyInstaller", "--onefile", "--noconfirm", "--log-level", "ERROR", "--strip"),
        *("--name", "host_agent", "--runtime-tmpdir", ".", "--paths", str(_ROOT)),
        *("--distpath", str(scratch), "--workpath", str(scratch / "work"), "--specpath", str(scratch / "spec")),
        # Drivers are found by their entry points, and imported by name.
        *("--copy-metadata", "volunteer-cloud", "--hidden-import", "host_agent.hypervisors.qemu"),
        *(word for name in (*_LEFT_OUT, *_LEFT_OUT_TOO) for word in ("--exclude-module", name)),
        str(_ENTRY),
    ]
    made = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False)
    if made.returncode != 0 or not (scratch / "host_agent").exists():
        said = (made.stderr or made.stdout).strip()[-2000:]
        raise NotFrozen(f"PyInstaller could not make it: {said or 'it said nothing'}")
    return scratch / "host_agent"
