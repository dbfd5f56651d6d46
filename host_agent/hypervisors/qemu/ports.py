"""The loopback ports at which a guest is reached from its host: chosen anew where somebody else has them by then.

No memory that was saved knows of them, so each start may have others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence

from broker.errors import NodeError
from broker.ports import free_ports
from host_agent.errors import PortTaken
from host_agent.hypervisors.contract import GuestPorts

log = logging.getLogger(__name__)

#: Of a start.
_TRIES = 3
_LOOPBACK = "127.0.0.1"
#: VNC counts its displays from this port.
_FIRST_VNC_PORT = 5900
#: In QEMU's options a comma that belongs to a value is doubled.
_FORWARDED = re.compile(r"(?<!,),hostfwd=[^,]*")
#: What QEMU says of a port that somebody has taken since it was chosen.
_TAKEN = re.compile("host forwarding rule|vnc|address already in use", re.IGNORECASE)


def forwarded(ports: GuestPorts) -> str:
    """Give what of QEMU's option for a network leads from this host into the guest."""
    return "".join(f",hostfwd=tcp:{_LOOPBACK}:{of_host}-:{of_guest}" for of_host, of_guest in ports.forwards)


def screen_option(ports: GuestPorts) -> list[str]:
    """Give the option of the guest's screen, if it is wanted."""
    return ["-vnc", _screen_at(ports.screen)] if ports.screen is not None else []


def settle(wanted: GuestPorts, before: GuestPorts | None) -> GuestPorts:
    """Give the ports that are wanted, where any is the ones of ``before``, and others for those that are taken. Nothing
    holds them when this returns. Raises PortTaken where none is free. Blocking, short."""
    of_host = _of_host(wanted)
    if not of_host:
        return wanted
    last = _of_host(before) if before is not None else []
    if len(last) == len(of_host):
        of_host = [port or old for port, old in zip(of_host, last, strict=True)]
    try:
        chosen = free_ports(_LOOPBACK, of_host)
    except (NodeError, OSError) as error:
        raise PortTaken(f"its guest cannot be reached from this host: {error}") from error
    forwards = tuple((port, of_guest) for port, (_, of_guest) in zip(chosen, wanted.forwards, strict=False))
    return GuestPorts(forwards=forwards, screen=chosen[-1] if wanted.screen is not None else None)


def at_ports(arguments: Sequence[str], ports: GuestPorts) -> list[str]:
    """Give a command line, of whatever age, with these ports in place of its own."""
    given = list(arguments)
    for at, name in enumerate(arguments[:-1]):
        if name == "-netdev":
            given[at + 1] = _FORWARDED.sub("", given[at + 1]) + forwarded(ports)
        elif name == "-vnc" and ports.screen is not None:
            given[at + 1] = _screen_at(ports.screen)
    return given


def is_of_a_port(words: str) -> bool:
    """Whether QEMU ended for a port that it could not have."""
    return _TAKEN.search(words) is not None


async def again_for_ports(start: Callable[[], Awaitable[None]]) -> None:
    """Start a VM; anew where somebody took one of its ports between our choice and QEMU's start. Raises as it does."""
    for _ in range(_TRIES - 1):
        try:
            return await start()
        except PortTaken as error:
            log.info("ports_chosen_anew error=%s", error)
    return await start()


def _of_host(ports: GuestPorts) -> list[int]:
    return [port for port, _ in ports.forwards] + ([ports.screen] if ports.screen is not None else [])


def _screen_at(port: int) -> str:
    """As QEMU counts."""
    return f"{_LOOPBACK}:{port - _FIRST_VNC_PORT}"
