"""Faults: what a caller is told when a call was not done. The codes are stable; scripts may rely on them."""

from __future__ import annotations

from enum import IntEnum
from xmlrpc.client import Fault

from broker.errors import BrokerError, CallTimeout, NotDelivered, RemoteError, TransferFailed, Unroutable
from broker.masking import mask
from schemas.errors import ErrorCode, SchemaError
from schemas.plain_text import plain
from volcloud.errors import BadInput, NoSuchVm, Unreachable, VolcloudError
from volcloud.telling import judge


class FaultCode(IntEnum):
    """Why a call was not done. Those below zero are XML-RPC's own."""

    BAD_XML = -32700
    BAD_REQUEST = -32600
    NO_SUCH_CALL = -32601
    BAD_ARGUMENT = -32602
    INTERNAL = -32603
    NOT_DONE = 1
    NO_SUCH_VM = 2
    NO_SUCH_COMMAND = 3
    WRONG_STATE = 4
    TIMEOUT = 5
    UNREACHABLE = 6
    UNSUPPORTED = 7
    FORBIDDEN = 8
    CONFLICT = 9
    TOO_LARGE = 10
    NO_ROOM = 11
    BUSY = 12
    NO_SUCH_SNAPSHOT = 13


#: What each code means; the reference page has it.
MEANINGS = {
    FaultCode.BAD_XML: "The body is no XML, has a document type, or is nested too deep.",
    FaultCode.BAD_REQUEST: "The XML is no XML-RPC call.",
    FaultCode.NO_SUCH_CALL: "No call has that name; `help()` lists those that there are.",
    FaultCode.BAD_ARGUMENT: "An argument is missing, one too many, or of a type or value that it may not have.",
    FaultCode.INTERNAL: "A fault of volcloud itself; it is kept in a file.",
    FaultCode.NOT_DONE: "It was asked for and it was not done; the text says why.",
    FaultCode.NO_SUCH_VM: "No VM has that name or id, or several have it.",
    FaultCode.NO_SUCH_COMMAND: "No command has that id, or its guest has it no more.",
    FaultCode.WRONG_STATE: "The VM's state does not allow it; the text names the state.",
    FaultCode.TIMEOUT: "No answer in time: what was asked may still happen.",
    FaultCode.UNREACHABLE: "The system, or the agent that is meant, cannot be reached.",
    FaultCode.UNSUPPORTED: "The original did it, or another driver does; here it cannot be done.",
    FaultCode.FORBIDDEN: "It may not be done: a path outside of `--files`, or a right that the console has not.",
    FaultCode.CONFLICT: "Something of that name is there already, and it is another one.",
    FaultCode.TOO_LARGE: "More than one answer, or one file, may hold.",
    FaultCode.NO_ROOM: "A disk is full, or a host's limits leave no room.",
    FaultCode.BUSY: "As many calls are at work as may be at once; try again.",
    FaultCode.NO_SUCH_SNAPSHOT: "The VM has no snapshot of that name.",
}

_OF_THE_WIRE = {
    ErrorCode.BAD_REQUEST: FaultCode.BAD_ARGUMENT,
    ErrorCode.UNSUPPORTED: FaultCode.UNSUPPORTED,
    ErrorCode.NOT_FOUND: FaultCode.NO_SUCH_VM,
    ErrorCode.FORBIDDEN: FaultCode.FORBIDDEN,
    ErrorCode.CONFLICT: FaultCode.CONFLICT,
    ErrorCode.ILLEGAL_STATE: FaultCode.WRONG_STATE,
    ErrorCode.DEADLINE: FaultCode.TIMEOUT,
    ErrorCode.TIMEOUT: FaultCode.TIMEOUT,
    ErrorCode.NO_ROOM: FaultCode.NO_ROOM,
    ErrorCode.TOO_LARGE: FaultCode.TOO_LARGE,
}


#: Longest sentence of a fault, characters: what a caller sent is not sent back at length.
MOST_TEXT = 2000


def fault(code: FaultCode, text: str, next_step: str) -> Fault:
    """Make a fault of what is wrong and what to do about it: one line, nothing in it but text, no password. Of a text
    that is too long the beginning is told, and the next step all the same."""
    more = f"; {next_step}" if next_step else ""
    shown = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
    return Fault(int(code), plain(mask(shown + more[: MOST_TEXT + 2])))


def fault_of(error: Exception) -> Fault:
    """Give what a caller is told of an error of any kind. One that nobody foresaw is kept in a file."""
    if isinstance(error, Fault):
        return error
    failure = judge(error)
    return fault(_code_of(error), failure.message, failure.next_step)


def _code_of(error: Exception) -> FaultCode:
    match error:
        case NoSuchVm():
            return FaultCode.NO_SUCH_VM
        case BadInput() | SchemaError():
            return FaultCode.BAD_ARGUMENT
        case RemoteError() | TransferFailed():
            return _OF_THE_WIRE.get(error.code, FaultCode.NOT_DONE)
        case CallTimeout():
            return FaultCode.TIMEOUT
        case Unroutable():
            return FaultCode.NO_SUCH_VM
        case Unreachable() | NotDelivered():
            return FaultCode.UNREACHABLE
        case VolcloudError() | BrokerError() | OSError():
            return FaultCode.NOT_DONE
    return FaultCode.INTERNAL
