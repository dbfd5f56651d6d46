"""The one codec: a message to bytes and back, typed, with a cap on length before anything is decoded.

Nothing untyped is ever decoded from the wire, so depth and shape are bounded by the types. Messages between our own
daemons may travel as a bundle, an array of them in one body: under load most of a message's cost is its body's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import msgspec

from schemas import (
    enrol,
    envelope,
    events,
    execs,
    files,
    grids,
    inputs,
    jobs,
    ledger,
    looks,
    owners,
    signed,
    sites,
    vms,
)
from schemas.description import advise
from schemas.envelope import MAX_BODY_BYTES, Message, Reply
from schemas.errors import DecodeError, ErrorCode
from schemas.ids import REPLY_PATTERN, MessageId
from schemas.wanted import explain

#: AMQP content type of every body.
CONTENT_TYPE = "application/x-msgpack"
#: Messages of one bundle, and bytes that a bundle does not grow beyond by another message.
MOST_IN_BUNDLE = 64
BUNDLE_BYTES = 64 * 1024
#: What is raised for bytes of a stranger that are none of the kind that was asked for, or too deep.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
#: Longest text that an error or an answer quotes, characters: a sender's own words must not fill the answer to it.
MAX_TEXT = 1000


def _tagged(kind: type[Message]) -> list[type[Message]]:
    """List the concrete messages below ``kind``; families (Command, Reply) have no tag of their own."""
    own = [kind] if kind.__struct_config__.tag in _tags_of(kind) else []
    return own + [leaf for child in kind.__subclasses__() for leaf in _tagged(child)]


def _tags_of(kind: type[Message]) -> set[Any]:
    """A family's tag is its class name, which holds no dot; a message's holds one."""
    tag = kind.__struct_config__.tag
    return {tag} if isinstance(tag, str) and "." in tag else set()


_MODULES = (envelope, signed, vms, looks, execs, files, inputs, enrol, jobs, ledger, events, sites, owners, grids)
#: Every message of the wire by its op. The modules above are imported so that the family is complete.
MESSAGES: dict[str, type[Message]] = {
    str(kind.__struct_config__.tag): kind
    for module in _MODULES
    for kind in _tagged(Message)
    if kind.__module__ == module.__name__
}

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(reduce(or_, MESSAGES.values()))


class _Label(msgspec.Struct):
    op: str = ""


class Label(msgspec.Struct, frozen=True):
    """What of a message can be read whatever it is: enough to answer who sent it."""

    op: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    id: MessageId
    reply: Annotated[str, msgspec.Meta(pattern=REPLY_PATTERN)] = ""


_reader_of_labels = msgspec.msgpack.Decoder(Label)
_label_decoder = msgspec.msgpack.Decoder(_Label)
_unbundler = msgspec.msgpack.Decoder(
    Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MOST_IN_BUNDLE)]
)
#: How a body begins that is an array: msgpack's fixarray, array 16.
_ARRAYS = frozenset({*range(0x90, 0xA0), 0xDC})


def encode(message: Message) -> bytes:
    """Render a message. Raises DecodeError when it is longer than the wire allows, so that nobody sends it."""
    body = _encoder.encode(message)
    if len(body) > MAX_BODY_BYTES:
        raise DecodeError(f"{op_of(message)}: {len(body)} bytes are over the limit of {MAX_BODY_BYTES} bytes a message")
    return body


def fit(answer: Reply) -> Reply:
    """Give an answer that the wire carries: one that is too long becomes a failure that says so."""
    try:
        encode(answer)
    except DecodeError as error:
        text = f"the answer does not fit a message: {clip(error.reason)}"
        return envelope.Failed(call=answer.call, code=ErrorCode.BAD_REQUEST, message=text, hint="ask for less at once")
    return answer


def decode(body: bytes) -> Message:
    """Read a message. Raises DecodeError saying what is wrong; never anything else, whatever the bytes."""
    if len(body) > MAX_BODY_BYTES:
        raise DecodeError(f"{len(body)} bytes are over the limit of {MAX_BODY_BYTES} bytes a message")
    try:
        return _decoder.decode(body)
    except UNREADABLE as error:
        raise DecodeError(f"not a message: {advise(clip(_explained(str(error), body)))}") from error


def unknown(body: bytes) -> Label | None:
    """Give the label of a message whose op is not known here, as of a newer peer; of any other None. Raises nothing."""
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        label = _reader_of_labels.decode(body)
    except UNREADABLE:
        return None
    return label if label.op not in MESSAGES else None


def _explained(reason: str, body: bytes) -> str:
    """Say what is wrong with a field in words, where the body says at least which message it would be."""
    try:
        kind = MESSAGES.get(_label_decoder.decode(body).op)
    except UNREADABLE:
        return reason
    return explain(reason, kind) if kind is not None else reason


def bundle(bodies: Sequence[bytes]) -> bytes:
    """Join encoded messages, 1 to ``MOST_IN_BUNDLE`` of them, into one body; a single one stays as it is."""
    if len(bodies) == 1:
        return bodies[0]
    return b"".join((b"\xdc", len(bodies).to_bytes(2, "big"), *bodies))


def unbundle(body: bytes) -> list[bytes]:
    """Take a bundle apart; what is no bundle is given back whole, for ``decode`` to judge. Raises nothing."""
    if not body or body[0] not in _ARRAYS or len(body) > MAX_BODY_BYTES:
        return [body]
    try:
        return [bytes(part) for part in _unbundler.decode(body)]
    except UNREADABLE:
        return [body]


def clip(text: str, most: int = MAX_TEXT) -> str:
    """Give the head of a text, with an ellipsis where something was left out; ``most`` characters in all."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def op_of(message: Message) -> str:
    """Name what a message is, as on the wire."""
    return str(type(message).__struct_config__.tag)
