"""The page of the XML-RPC calls, from the table that the door works by."""

from __future__ import annotations

from collections.abc import Iterator

from volcloud.xmlrpc.calls import CALLS
from volcloud.xmlrpc.door import CALL_S, MOST_CALLS
from volcloud.xmlrpc.faults import MEANINGS, FaultCode
from volcloud.xmlrpc.gate import MOST_BODY_BYTES
from volcloud.xmlrpc.http_server import BODY_S, HEAD_S, MOST_CONNECTIONS
from volcloud.xmlrpc.marshal import MOST_DEPTH
from volcloud.xmlrpc.method import Generation
from volcloud.xmlrpc.names import STATES

INTRO = (
    "What `volcloud xmlrpc` answers: the calls of the original VM controller, by their names. How a script comes to "
    "use them, and who may, is [told elsewhere](../howto/xmlrpc.md). *First* is the controller of 2009, *second* its "
    "successor of 2011. Arguments are positional; one with a default may be left out from the right."
)
_BOTH = "first, second"


def calls() -> Iterator[tuple[str, str, str]]:
    """Give each call, whose it was, and what it does."""
    for one in sorted(CALLS.values(), key=lambda one: one.name.lower()):
        whose = _BOTH if one.generation is Generation.BOTH else str(one.generation)
        yield f"`{one}`", whose, one.text


def faults() -> Iterator[tuple[str, str, str]]:
    """Give each code of a fault, its name and its meaning."""
    for code in FaultCode:
        yield str(int(code)), f"`{code.name}`", MEANINGS[code]


def states() -> str:
    """List the states in the original's words."""
    return f"In the original's words: {', '.join(f'`{word}`' for word in STATES)}."


def bounds() -> str:
    """Say what is bounded."""
    return (
        f"A request has at most {MOST_BODY_BYTES:,} bytes and elements {MOST_DEPTH} deep, no document type, "
        f"{HEAD_S:.0f} s for its head (an idle connection too) and {BODY_S:.0f} s for its body. {MOST_CALLS} calls are "
        f"at work at once, each for {CALL_S:,.0f} s at most, on {MOST_CONNECTIONS} connections; one that asks for "
        "nothing makes room for a newer one. A caller that goes away ends its call; a verb that its host has taken "
        "goes on there."
    )
