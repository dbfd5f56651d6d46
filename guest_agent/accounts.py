"""Which account a payload runs as: never the agent's own where that can be helped.

As root, slot n has an account of its own: user ``job<n>`` of the image, else an id that no account of a usual system
has. An agent that is not root, or whose directory other accounts cannot enter, runs payloads as itself and says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import signal
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

from guest_agent.payload import Account

log = logging.getLogger(__name__)

#: How often processes are looked for that were made while others were killed.
MOST_ROUNDS = 20
#: First of the ids for slots that have no named account.
FIRST_ID = 64000


def of_slots(directory: Path) -> Callable[[int], Account | None]:
    """Give the account of each slot, for payloads that run below ``directory``."""
    if os.geteuid() != 0:
        log.warning("payloads run as the agent's own user: it is not root and cannot give them another")
        return lambda _: None
    if not _is_enterable(directory):
        log.warning("payloads run as root: other users cannot enter the directory", extra={"path": str(directory)})
        return lambda _: None
    return _account


@cache
def _account(slot: int) -> Account:
    try:
        entry = pwd.getpwnam(f"job{slot}")
    except KeyError:
        return Account(FIRST_ID + slot, FIRST_ID + slot)
    return Account(entry.pw_uid, entry.pw_gid)


def end_all_of(account: Account | None) -> None:
    """Kill every process of a payload's account: one that left its group would meet the slot's next job. Blocking.

    Nothing happens without an account of its own: the processes are the agent's then.
    """
    for _ in range(MOST_ROUNDS if account is not None else 0):
        left = [pid for pid in _processes() if _owner_of(pid) == (account.uid if account else -1)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _owner_of(pid: int) -> int:
    """Give a process's user; -1 when it is gone, or dead and not yet buried."""
    try:
        process = Path(f"/proc/{pid}")
        return -1 if b") Z " in (process / "stat").read_bytes() else process.stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return -1


def _is_enterable(directory: Path) -> bool:
    """Every directory on the way lets everybody through."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.resolve().parents))
