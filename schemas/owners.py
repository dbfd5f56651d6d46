"""What consoles ask and say about owners: sites and persons, of whose waiting jobs each is served in its turn."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Message, Reply
from schemas.ids import Principal
from schemas.ledger import Rows

#: Owners that a question may name.
MAX_NAMED = 1000
#: How often an owner's turn may come for one of another, and how many of its jobs may wait.
Share = Annotated[int, Meta(ge=1, le=1000)]
MostWaiting = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class OwnerList(Message, frozen=True, kw_only=True, tag="owner.list"):
    """Ask for a page of the owners that have jobs, by name, and of those that are named beside them."""

    named: Annotated[list[Principal], Meta(max_length=MAX_NAMED)] = []
    limit: Rows = 200
    #: ``next`` of the page before.
    after: str = ""


class OwnerRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An owner, its part of the machines' time beside others', and its jobs."""

    owner: str
    share: int = 1
    #: Jobs that it may let wait; ``is_limit_own``: that was set for it, and is not what the centre's settings say.
    most_waiting: int
    is_limit_own: bool = False
    #: What it has used lately, cpu-seconds, of which half counts after four hours; counted while others' jobs wait too.
    used_s: float = 0.0
    #: What it occupies, cpus, as it was counted last.
    cpus: float = 0.0
    #: Its jobs by state (see ``JobState``); a state that none is in is left out.
    jobs: dict[str, int] = {}


class Owners(Reply, frozen=True, kw_only=True, tag="reply.owners"):
    """A page of owners; ``next`` asks for the one after it, empty = this was the last."""

    owners: list[OwnerRow]
    next: str = ""


class OwnerSet(Message, frozen=True, kw_only=True, tag="owner.set"):
    """Set what is said of an owner; what is left out stays. Answered by its row."""

    owner: Principal
    share: Share | None = None
    most_waiting: MostWaiting | None = None
    #: As many of its jobs may wait as the centre's settings say.
    forget_most_waiting: bool = False
