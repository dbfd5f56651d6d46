"""The envelope: the fields that every message has, and the two families that answer and command.

One msgpack map a message, tagged by ``op``. Unknown fields are ignored, since versions may differ; who sent it is the
broker's word (``user_id``) and never a field of the body.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from schemas.errors import ErrorCode
from schemas.ids import REPLY_PATTERN, MessageId, Sha256, uuid7

#: The version of the wire; raised only by a change that an older peer would misread.
WIRE_VERSION = 1

#: Longest body that is decoded, bytes; the broker's own limit is the same.
MAX_BODY_BYTES = 1 << 20


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op"):
    """What every message carries."""

    v: int = WIRE_VERSION
    #: Names the logical message: sent again after a doubt, it keeps its id and its effect happens once.
    id: MessageId = field(default_factory=uuid7)
    #: The principal that it is for; empty where the queue alone says so.
    target: str = ""
    #: Boot generation of the VM that it is for or from; 0 where none is meant.
    generation: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    #: Absolute time of the centre, ms since 1970, after which it has no effect.
    deadline_ms: int | None = None
    #: The random end of the sender's reply queue; used only for consoles, behind their broker-checked name.
    reply: Annotated[str, Meta(pattern=REPLY_PATTERN, description="at most 32 of a to z and 0 to 9")] = ""
    trace: str | None = None


class Command(Message, frozen=True, kw_only=True):
    """A message that an agent journals before it acknowledges it, and answers alike however often it comes."""


class Reply(Message, frozen=True, kw_only=True):
    """An answer to the message whose id is ``call``."""

    call: MessageId
    #: The centre's time as it answered, ms since 1970, by which deadlines are judged; 0 in an agent's answer.
    server_time_ms: int = 0


class Accepted(Reply, frozen=True, kw_only=True, tag="reply.accepted"):
    """Journalled and running; the result will follow. Sent only where none comes within 100 ms."""


class Done(Reply, frozen=True, kw_only=True, tag="reply.done"):
    """It is done and there is nothing more to say."""


class Failed(Reply, frozen=True, kw_only=True, tag="reply.failed"):
    """It was not done, or not wholly."""

    code: ErrorCode
    #: Names field, value and what is allowed.
    message: str
    #: What to do next.
    hint: str = ""


class ServerTime(Reply, frozen=True, kw_only=True, tag="reply.time"):
    """The centre's time: what deadlines are judged by."""

    server_time_ms: int


class CommandState(Message, frozen=True, kw_only=True, tag="command.state"):
    """Ask an agent what became of a command; the answer is its reply, ``reply.accepted``, or ``not_found``."""

    command: MessageId


class Ping(Message, frozen=True, kw_only=True, tag="agent.ping"):
    """Ask an agent to answer at once."""


class Refused(Message, frozen=True, kw_only=True, tag="agent.refused"):
    """An agent has rejected what came to its queue. It lies in the dead letters, whose reason nobody else can tell."""

    #: Of the body as it came: its dead letter is known by it.
    sha256: Sha256
    #: Who sent it, as the broker vouched for it.
    sender: str
    reason: str
