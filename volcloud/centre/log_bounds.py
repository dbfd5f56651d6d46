"""A bound on every log of a system, whoever writes it: our daemons put theirs aside themselves, long before.

What is left are foreign words on a standard error. Whoever writes a log has opened it for appending.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from broker.daemon.logs import LOG_BYTES
from volcloud.centre.stopping import Say

#: A log that is longer than this is cut, bytes: no daemon of ours lets its own grow so far.
MOST_BYTES = 2 * LOG_BYTES
#: How often they are looked at, seconds.
LOOK_S = 10.0


async def keep_bounded(directories: Sequence[Path], say: Say) -> None:
    """Cut what grows too long, until cancelled."""
    while True:
        for path in await asyncio.to_thread(cut_long, directories):
            say(f"{path} was too long and has been cut; its end is in {path.name}.1")
        await asyncio.sleep(LOOK_S)


def cut_long(directories: Sequence[Path], most_bytes: int = MOST_BYTES) -> list[Path]:
    """Cut each log that is too long, its end kept beside it; name them. A full disk costs that end, not the cut."""
    found = [path for directory in directories for path in directory.glob("*.log") if _size(path) > most_bytes]
    return [path for path in found if _cut(path, most_bytes // 2)]


def _cut(path: Path, kept_bytes: int) -> bool:
    """Cut one. False for one that has gone meanwhile: whoever wrote it may put it aside at any time."""
    aside = path.with_name(f"{path.name}.1")
    try:
        with path.open("rb") as file:
            file.seek(-kept_bytes, os.SEEK_END)
            aside.write_bytes(file.read(kept_bytes))
    except OSError:
        aside.unlink(missing_ok=True)
    try:
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
