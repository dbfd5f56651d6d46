"""What consoles ask and say about sources: grids from which jobs are fetched."""

from __future__ import annotations

from msgspec import Struct

from schemas.envelope import Message, Reply
from schemas.ids import SiteName


class SourceList(Message, frozen=True, kw_only=True, tag="source.list"):
    """Ask how the sources are."""


class SourceRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source as its adapter last told. Times are ms since 1970, 0 = never."""

    source: str
    kind: str
    seen_ms: int
    #: When it was asked for jobs last, when it gave some last, and when it will be asked again.
    asked_ms: int = 0
    given_ms: int = 0
    next_ms: int = 0
    #: What is wrong with it, and since when; empty = nothing.
    trouble: str = ""
    trouble_ms: int = 0
    #: Jobs that it has given and that are none here yet; ends that it is to be told; and those that wait for a person.
    acquired: int = 0
    owed: int = 0
    held: int = 0
    #: In the answer to ``source.retry``: how much of it had failed and is tried again now.
    retried: int = 0


class Sources(Reply, frozen=True, kw_only=True, tag="reply.sources"):
    """All sources, by name."""

    sources: list[SourceRow]


class SourceDelete(Message, frozen=True, kw_only=True, tag="source.delete"):
    """Forget a source that has no adapter any more. Answered by its row where more of it is left, or by none.

    ``give_up``: what it would still be told is dropped, and what it has given and is no job yet; a portion each time.
    """

    source: SiteName
    give_up: bool = False


class SourceRetry(Message, frozen=True, kw_only=True, tag="source.retry"):
    """Have all of a source tried again at once that has failed: ends to be told, also those that wait for a person, and
    jobs on their way here. Answered by its row."""

    source: SiteName
