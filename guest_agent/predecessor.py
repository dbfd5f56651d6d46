"""The starter of a slot whose agent is gone: it holds the slot until all that it had started has ended.

That takes it no time, as it hears of its agent's end by its socket. One that is frozen, as those of a paused VM are,
hears nothing and holds the slot for ever. So whoever comes next has it go on; one that ends not even then is killed
with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from guest_agent.errors import NotContained
from guest_agent.process_tree import ENDS_S, all_pids, descendants
from guest_agent.programs import STARTER

#: How long one may take to end by itself, seconds: longer than it waits for processes that hang.
PATIENCE_S = ENDS_S + 2.0
#: How long it may take to end when it is killed, seconds.
KILL_S = 10.0
#: Between two looks, seconds.
LOOK_S = 0.02


async def end(directory: Path) -> None:
    """Leave nobody who holds the slot whose attempts are in ``directory``. Raises NotContained, OSError."""
    began = time.monotonic()
    while not _is_free(directory):
        waited_s = time.monotonic() - began
        if waited_s > PATIENCE_S + KILL_S:
            raise NotContained("the starter before this one does not end, though it was killed")
        await asyncio.to_thread(_press, directory, kill=waited_s > PATIENCE_S)
        await asyncio.sleep(LOOK_S)


def holders(directory: Path) -> list[int]:
    """Find the starters of a slot, by the directory that they have open: a pid that was written down may be a
    stranger's by now."""
    slot = directory.stat()
    return [pid for pid in all_pids() if _is_starter(pid) and _has_open(pid, slot)]


def _is_free(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _press(directory: Path, *, kill: bool) -> None:
    """Have starters go on; or kill them, each after what it has started, which nobody would find without it."""
    for pid in holders(directory):
        _signal(pid, signal.SIGCONT)
        if kill:
            for child in descendants(pid):
                _signal(child, signal.SIGKILL)
            _signal(pid, signal.SIGKILL)


def _is_starter(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.fsencode(STARTER) in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
