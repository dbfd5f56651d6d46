"""Who holds the other end of a connection on this machine: asked of the kernel before a password is sent.

A private node's port may be vacant for seconds, and any user of the machine may take it then. The kernel knows to whom
each socket belongs; a password goes to nobody but the node's own user. Linux, IPv4 on loopback: as private nodes are.
"""

from __future__ import annotations

import socket
import struct
import time

from broker.errors import Stranger

#: Owner of a broker that is not asked after: one on another machine, or run by another user of the operator's choice.
ANYBODY = -1
#: How long the other end may take to accept: before it does, the kernel names no owner. Seconds.
ACCEPT_S = 5.0
_POLL_S = 0.005
_TABLE = "/proc/self/net/tcp"


def require_owner(connection: socket.socket, owner: int) -> None:
    """Return if the other end of a connected socket belongs to the user ``owner``. Raises Stranger, or OSError.

    Blocks until the other end has accepted, ``ACCEPT_S`` at most; one that has said something has.
    """
    if owner == ANYBODY:
        return
    host, port = connection.getpeername()[:2]
    deadline = time.monotonic() + ACCEPT_S
    while (found := owner_of_other_end(connection)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if found != owner:
        whose = "nobody who is known" if found is None else f"user {found}"
        raise Stranger(f"port {port} of {host} belongs to {whose}, not to user {owner} as the broker: no password sent")


def owner_of_other_end(connection: socket.socket) -> int | None:
    """Give the user id that holds the other end; None where it is not on this machine, or has not accepted yet."""
    ends = (_rendered(connection.getpeername()), _rendered(connection.getsockname()))
    # This module is also the relay's, which starts for each connection: it has no time to import pathlib.
    with open(_TABLE, encoding="ascii") as table:  # noqa: PTH123
        for line in table:
            fields = line.split()
            if (fields[1], fields[2]) == ends:
                return int(fields[7]) if fields[9] != "0" else None
    return None


def _rendered(address: tuple[str, int]) -> str:
    """Render an address as the kernel's table does: the words of the host in the machine's byte order."""
    (word,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{word:08X}:{address[1]:04X}"
