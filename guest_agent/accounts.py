"""Which account a payload runs as: never the agent's own where that can be helped.

As root, each slot has an account of its own: user ``job<n>`` of the image, else an id that no account of a usual system
has and that differs from guest to guest of one machine. An agent that is not root runs payloads as itself and says so.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

log = logging.getLogger(__name__)

#: First of the ids for slots that have no named account: below are a system's users, and ids that containers map.
FIRST_ID = 1 << 30
#: Ids that one guest has, and guests that can be told apart: together they stay below the largest id.
SLOTS, GUESTS = 1024, 1 << 20


class Account(Struct, frozen=True):
    """The user and group that a process runs as."""

    uid: int
    gid: int


def of_slots(directory: Path) -> Callable[[int], Account | None]:
    """Give the account of each slot, for payloads of the guest whose state is in ``directory``."""
    if os.geteuid() != 0:
        log.warning("payloads run as the agent's own user: it is not root and cannot give them another")
        return lambda slot: None
    first = FIRST_ID + zlib.crc32(os.fsencode(directory.resolve())) % GUESTS * SLOTS
    return lambda slot: _account(slot, first)


def to_be_covered(state: Path) -> Path:
    """Give the directory that payloads shall find empty, but for the way to their own.

    It holds all of the agent's state. Where one above it lets no other account in, that one: payloads could not pass.
    """
    above = [state.resolve(), *state.resolve().parents][:-1]
    closed = [path for path in above if not path.stat().st_mode & stat.S_IXOTH]
    return closed[-1] if closed else above[0]


def _account(slot: int, first: int) -> Account:
    try:
        entry = pwd.getpwnam(f"job{slot}")
    except KeyError:
        return Account(first + slot, first + slot)
    return Account(entry.pw_uid, entry.pw_gid)
