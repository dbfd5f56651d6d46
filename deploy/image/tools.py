"""Running the foreign programs of the build (mmdebstrap, mke2fs, qemu-img …) and saying what is going on.

Every failure comes back as ``BuildError`` with the end of what the program printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from deploy.image.errors import BuildError

_BEGAN = time.monotonic()
#: Enough of a program's output to see its error, not its progress.
_TAIL_CHARACTERS = 2000


def progress(text: str) -> None:
    """Say on stderr what happens now."""
    sys.stderr.write(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}\n")
    sys.stderr.flush()


def find_tool(name: str, debian_package: str) -> str:
    """Find a program, also where an ordinary user's PATH does not look; say which package has it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise BuildError(f"{name} is missing: apt-get install {debian_package}")
    return found


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end; raise BuildError with the tail of its output if it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace")[-_TAIL_CHARACTERS:]
        raise BuildError(f"{' '.join(command[:2])} … failed with {done.returncode}:\n{tail}")


def as_root(command: Sequence[str]) -> list[str]:
    """Make files of the building user look root's to ``command``, so that nobody need be root to build."""
    if os.geteuid() == 0:
        return list(command)
    return [find_tool("unshare", "util-linux"), "--map-root-user", *command]
