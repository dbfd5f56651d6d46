"""Free TCP ports for servers of our own: the wanted ones where they are free, others where not."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

from broker.errors import NodeError

#: Below the range from which Linux takes the ports of outgoing connections.
PORT_RANGE = range(20000, 32000)
_ATTEMPTS = 100


def free_ports(host: str, wanted: Sequence[int]) -> list[int]:
    """Give the wanted ports, others for those that are 0 or taken; distinct, since all are held until all are chosen.

    They are free when this returns, not reserved. Raises NodeError when none is found.
    """
    held: list[socket.socket] = []
    try:
        for port in wanted:
            held.append(_hold(host, port) or _hold_any(host))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _hold(host: str, port: int) -> socket.socket | None:
    """Take a port; None if it is 0 or someone has it."""
    if not port:
        return None
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
        one.listen(1)  # else another one that may reuse addresses could have it, too
    except OSError:
        one.close()
        return None
    return one


def _hold_any(host: str) -> socket.socket:
    for _ in range(_ATTEMPTS):
        one = _hold(host, secrets.choice(PORT_RANGE))
        if one:
            return one
    raise NodeError(f"no free port between {PORT_RANGE.start} and {PORT_RANGE.stop} on {host}")
