"""What the centre says to a grid site of its own accord, and how a site reads what its jobs have left.

A site has an AMQP client and nothing of ours: so an end is one message, and an output is read in parts, each asked for
by itself, in any order, as often as one likes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.envelope import Message, Reply
from schemas.files import MAX_CHUNK_BYTES, RelativePath
from schemas.ids import JobRef, Sha256
from schemas.jobs import OutputEntry
from schemas.ledger import JobState


class JobEnded(Message, frozen=True, kw_only=True, tag="job.ended"):
    """A job of the site's has ended, or is held. It comes at least once, under one id.

    A held job may end again: when it is retried, and by itself when a guest that was given up turns up with it after
    all. Of several the one with the latest ``ended_ms`` counts. Times are ms since 1970, 0 = never.
    """

    job: JobRef
    #: ``done``, ``cancelled`` or ``held``.
    state: JobState
    #: The last attempt, of which exit status, start and outputs are; 0 = it had none.
    attempt: int
    #: -1 = its payload did not run to an end.
    exit_status: int = -1
    #: Why it is not done, in words for a person.
    cause: str = ""
    submitted_ms: int = 0
    started_ms: int = 0
    #: Since when the job is in this state.
    ended_ms: int = 0
    #: What it left, without contents: names are relative paths of printable characters, chosen where it ran.
    outputs: list[OutputEntry] = []
    #: They are not named here, being more than fits; ``job.show`` may tell them.
    is_cut: bool = False


class OutputRead(Message, frozen=True, kw_only=True, tag="output.read"):
    """Ask for a part of an output of the site's job, as its last attempt left it."""

    job: JobRef
    name: RelativePath
    offset: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    #: A part may be shorter, where the output ends.
    size: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)] = MAX_CHUNK_BYTES


class OutputPart(Reply, frozen=True, kw_only=True, tag="reply.output"):
    """A part of an output, and what the whole is: so many bytes in total, with that SHA-256."""

    attempt: int
    offset: int
    total: int
    sha256: Sha256
    data: bytes = b""
