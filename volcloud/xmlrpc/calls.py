"""The table of calls: the only names that a caller can reach."""

from __future__ import annotations

from volcloud.xmlrpc import command_calls, file_calls, list_calls, snapshot_calls, stat_calls, vm_calls
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, XmlRpcMethod, method

_ROOMS = (list_calls, command_calls, file_calls, vm_calls, snapshot_calls, stat_calls)


async def help_of(room: Room, method_name: str | None = None) -> str:
    """What a call takes and does; of all calls where none is named."""
    if not method_name:
        return "\n\n".join(f"{one}:\n{one.text}" for one in CALLS.values())
    found = find(method_name)
    return f"{found}:\n{found.text}"


def find(name: str) -> XmlRpcMethod:
    """Give the call of a name. Raises Fault."""
    found = CALLS.get(name)
    if found is None:
        raise fault(FaultCode.NO_SUCH_CALL, f"no call is named {name[:100]!r}", "`help()` lists those that there are")
    return found


#: All calls, by name.
CALLS: dict[str, XmlRpcMethod] = {one.name: one for room in _ROOMS for one in room.METHODS}
CALLS["help"] = method("help", Generation.BOTH, help_of)
