"""The loopback ports at which a guest is reached from its host: chosen anew where somebody else has them by then.

No memory that was saved knows of them, so each start may have others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from broker.errors import NodeError
from broker.ports import free_ports
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import GuestPorts

_LOOPBACK = "127.0.0.1"
#: VNC counts its displays from this port.
_FIRST_VNC_PORT = 5900
#: In QEMU's options a comma that belongs to a value is doubled.
_FORWARDED = re.compile(r"(?<!,),hostfwd=[^,]*")


def forwarded(ports: GuestPorts) -> str:
    """Give what of QEMU's option for a network leads from this host into the guest."""
    return "".join(f",hostfwd=tcp:{_LOOPBACK}:{of_host}-:{of_guest}" for of_host, of_guest in ports.forwards)


def screen_option(ports: GuestPorts) -> list[str]:
    """Give the option of the guest's screen, if it is wanted."""
    return ["-vnc", _screen_at(ports.screen)] if ports.screen is not None else []


def settle(wanted: GuestPorts) -> GuestPorts:
    """Give these ports, others for those that are taken. Nothing holds them when this returns. Raises HypervisorError
    where none is free. Blocking, short."""
    of_host = [port for port, _ in wanted.forwards]
    if wanted.screen is not None:
        of_host.append(wanted.screen)
    if not of_host:
        return wanted
    try:
        chosen = free_ports(_LOOPBACK, of_host)
    except NodeError as error:
        raise HypervisorError(f"its guest cannot be reached from this host: {error}") from error
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


def _screen_at(port: int) -> str:
    """As QEMU counts."""
    return f"{_LOOPBACK}:{port - _FIRST_VNC_PORT}"
