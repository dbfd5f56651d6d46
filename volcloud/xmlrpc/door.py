"""The door: a request's bytes in, an answer's bytes out; whatever goes wrong on the way is a fault."""

from __future__ import annotations

import asyncio

from volcloud.xmlrpc.calls import find
from volcloud.xmlrpc.faults import FaultCode, fault, fault_of
from volcloud.xmlrpc.marshal import XmlRpcCall, read_call, write_answer, write_fault
from volcloud.xmlrpc.method import Room

#: Calls at work at once.
MOST_CALLS = 32
#: How long a call may take, seconds: that of copying a large file.
CALL_S = 3600.0


class Door:
    """See the module. Belongs to the client's loop."""

    def __init__(self, room: Room, *, most_calls: int = MOST_CALLS, call_s: float = CALL_S) -> None:
        self._room, self._most, self._call_s = room, most_calls, call_s
        self._at_work = 0

    async def answer(self, body: bytes) -> bytes:
        """Do what a request asks for and give the answer; raises nothing but the cancel of a caller that goes away."""
        try:
            return await self._done(read_call(body))
        except Exception as error:  # noqa: BLE001  the top of a call: a caller is told, and no call ends the door
            return write_fault(fault_of(error))

    async def _done(self, call: XmlRpcCall) -> bytes:
        if self._at_work >= self._most:
            raise fault(FaultCode.BUSY, f"{self._most} calls are at work", "wait for one of them, then try again")
        self._at_work += 1
        try:
            async with asyncio.timeout(self._call_s) as limit:
                return write_answer(await find(call.name).call(self._room, call.arguments))
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"{call.name} has not ended in {self._call_s:.0f} s and was given up"
            raise fault(FaultCode.TIMEOUT, text, "look at what it did before you give it again") from error
        finally:
            self._at_work -= 1
