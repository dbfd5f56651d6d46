"""Which account a payload runs as: never the agent's own where that can be helped.

As root, slot n has an account of its own: user ``job<n>`` of the image, else an id that no account of a usual system
has. An agent that is not root, or whose directory other accounts cannot enter, runs payloads as itself and says so.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

from guest_agent.payload import Account

log = logging.getLogger(__name__)

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


def _is_enterable(directory: Path) -> bool:
    """Every directory on the way lets everybody through."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.resolve().parents))
