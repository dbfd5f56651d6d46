"""What a VM's relays have carried: all that its guest has exchanged with anybody by its network.

Each of a VM's places for a relay is a file, which its relays lock in turn and count in. QEMU itself counts no network.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from host_agent.hypervisors.qemu.accounts import give
from host_agent.hypervisors.qemu.command import MOST_RELAYS, RELAY_PLACE, MachineCommand, counts
from host_agent.hypervisors.vm_account import VmAccount
from host_agent.relay import COUNTS

#: No more is told of a VM's: what its account writes there is its own word.
_MOST = 1 << 53


class Carried(NamedTuple):
    """Bytes, without what TCP adds."""

    from_guest: int
    to_guest: int


def carried(home: Path, command: MachineCommand | None) -> Carried | None:
    """Say what the relays of this life of the VM in ``home`` have carried; None where its relays do not count, as those
    of a VM that an earlier agent started."""
    if command is None or not counts(command):
        return None
    both = [_read(home / f"{RELAY_PLACE}{n}") for n in range(MOST_RELAYS)]
    return Carried(min(_MOST, sum(one.from_guest for one in both)), min(_MOST, sum(one.to_guest for one in both)))


def forget(home: Path, account: VmAccount | None) -> None:
    """Begin to count anew, before a process starts; an account of the VM's own is given the places, as it can make
    none. Raises OSError."""
    for n in range(MOST_RELAYS):
        place = home / f"{RELAY_PLACE}{n}"
        place.unlink(missing_ok=True)
        if account is not None:
            place.touch(0o600)
            give(place, account.uid)


def _read(path: Path) -> Carried:
    try:
        with open(path, "rb", opener=_at_once) as file:
            return Carried(*struct.unpack(COUNTS, file.read(struct.calcsize(COUNTS))))
    except (OSError, struct.error):
        return Carried(0, 0)


def _at_once(path: str, flags: int) -> int:
    """Open what an account owns: it may have asked the kernel to keep others waiting."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
