"""XML-RPC as bytes: calls read, answers and faults written. The standard library's marshalling, with bounds on it.

A document type is refused where it begins, so no entity is ever defined: neither one that grows, nor one that names a
file. What is read is plain values; what is written is XML whatever is in it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from xml.parsers import expat
from xmlrpc.client import Error, Fault, Unmarshaller, dumps

from schemas.plain_text import plain
from volcloud.xmlrpc.faults import FaultCode, fault

#: How deep elements may be nested; an argument of the original's is a list in a struct at most.
MOST_DEPTH = 32
#: Longest name of a call, characters.
MOST_NAME = 64
#: What a parser of the standard library may raise on bytes that are XML and no call.
_NO_CALL = (Error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
#: Characters that XML 1.0 cannot have, escaped or not.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST_INT = 2**31


class XmlRpcCall(NamedTuple):
    """What was asked for, as it came."""

    name: str
    arguments: list[Any]


class _Depth:
    """Counts open elements, and leaves the document where they are too many or a document type begins."""

    def __init__(self, target: Any) -> None:
        self._target, self._depth = target, 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise fault(FaultCode.BAD_XML, f"elements are nested deeper than {MOST_DEPTH}", "give flat arguments")
        self._target.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._target.end(tag)

    def refuse(self, *_: object) -> None:
        raise fault(FaultCode.BAD_XML, "the request has a document type", "leave it out: XML-RPC has none")


def read_call(body: bytes) -> XmlRpcCall:
    """Read a request. Raises Fault."""
    target: Any = Unmarshaller(use_builtin_types=True)
    target.xml(None, None)
    depth, parser = _Depth(target), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = depth.start, depth.end
    parser.CharacterDataHandler = target.data
    parser.StartDoctypeDeclHandler = depth.refuse
    try:
        parser.Parse(body, True)
        arguments, name = list(target.close()), target.getmethodname()
    except expat.ExpatError as error:
        raise fault(
            FaultCode.BAD_XML, f"the request is no XML: {error}", "send what an XML-RPC client makes"
        ) from error
    except _NO_CALL as error:
        if isinstance(error, Fault) and error.faultCode == FaultCode.BAD_XML:
            raise
        raise fault(FaultCode.BAD_REQUEST, "the request is no XML-RPC call", "send a methodCall with params") from error
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME:
        raise fault(
            FaultCode.BAD_REQUEST, "the request names no call", f"give a methodName of 1 to {MOST_NAME} letters"
        )
    return XmlRpcCall(name, arguments)


def write_answer(value: Any) -> bytes:
    """Write what a call gives."""
    return _encoded(dumps((_legal(value),), methodresponse=True, allow_none=True))


def write_fault(told: Fault) -> bytes:
    """Write why a call was not done."""
    return _encoded(dumps(Fault(told.faultCode, _shown(told.faultString))))


def text_or_bytes(data: bytes) -> str | bytes:
    """Give output as text where XML can carry it as such, else as bytes, which go as base64."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    return data if _ILLEGAL.search(text) else text


def _encoded(text: str) -> bytes:
    # A bare return is read as a line break; it is in no tag of ours.
    return text.replace("\r", "&#13;").encode()


def _legal(value: Any) -> Any:
    """Give what XML-RPC can carry: whole numbers beyond 32 bits as doubles, strangers' characters escaped."""
    match value:
        case bool() | float() | bytes() | None:
            return value
        case int():
            return value if -_MOST_INT <= value < _MOST_INT else float(value)
        case str():
            return _shown(value)
        case dict():
            return {_shown(str(key)): _legal(one) for key, one in value.items()}
    return [_legal(one) for one in value]


def _shown(text: str) -> str:
    return plain(text) if _ILLEGAL.search(text) else text
