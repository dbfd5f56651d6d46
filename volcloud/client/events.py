"""Following what happens to VMs and hosts: asked for by number, so that none is missed and none is given twice.

Where one is in the events is decided by ``EventPlace``, which is pure; it outlives brokers, adapters and pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
from msgspec import Struct

from broker.errors import RemoteError
from schemas.errors import ErrorCode
from schemas.events import Event, EventList, Events
from volcloud.client.centre_caller import insist
from volcloud.client.session import ClientSession
from volcloud.client.shown import shown
from volcloud.errors import BadInput, Unreachable
from volcloud.loop_thread import LoopThread

#: Between two questions of one who has all that there is, seconds.
LOOK_S = 1.0
#: What another try does not cure.
_FINAL = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.FORBIDDEN, ErrorCode.UNSUPPORTED})

#: Told while the centre cannot be asked; the following goes on.
OnTrouble = Callable[[Unreachable], None]


class EventGap(Struct, frozen=True, kw_only=True):
    """Some events between two that were given are not to be had any more."""

    #: Numbers between which some may be missing.
    after: int
    upto: int
    why: str


class EventPlace:
    """How far somebody has read: ``after`` is what he asks next; 0 before the first answer means from the oldest on."""

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self._ledger = ""
        self._told = 0

    def take(self, page: Events) -> list[Event | EventGap]:
        """Take the answer to a question after ``after``: give what is new, and go on behind it."""
        if self._ledger not in ("", page.ledger):
            return self._begin_anew(page)
        self._ledger = page.ledger
        if page.last < self.after:
            return self._go_back(page)
        gap = self._gap(page)
        self.after = max(self.after, page.next)
        return [*gap, *page.events]

    def is_behind(self, page: Events) -> bool:
        """Say whether there is more to ask for at once."""
        return self.after < page.last

    def _gap(self, page: Events) -> list[Event | EventGap]:
        """Tell of what was removed between two questions, once. Who has asked for all has missed nothing of it."""
        if not self.after or page.removed <= max(self.after, self._told):
            return []
        self._told = page.removed
        why = "they are kept no longer, or were more than are kept of a VM, of a host or in all"
        return [EventGap(after=self.after, upto=page.removed, why=why)]

    def _begin_anew(self, page: Events) -> list[Event | EventGap]:
        gap = EventGap(after=self.after, upto=0, why="the centre has another ledger: its events follow from the first")
        self.after, self._ledger, self._told = 0, page.ledger, 0
        return [gap]

    def _go_back(self, page: Events) -> list[Event | EventGap]:
        gap = EventGap(after=self.after, upto=page.last, why="the ledger was brought back from an older copy")
        self.after, self._told = page.last, 0
        return [gap]


async def follow(
    session: ClientSession, pattern: str, after: int | None, since_ms: int, on_trouble: OnTrouble | None
) -> AsyncIterator[Event | EventGap]:
    """Give events as they happen, those after a number; None: from now on. See ``AsyncVms.follow``."""

    def asking(**fields: int) -> Callable[[], Awaitable[Events]]:
        message = event_list(pattern, fields)
        return lambda: _ask(session, message)

    if after is None and not since_ms:
        after = (await insist(asking(newest=1), deadline=None, on_trouble=on_trouble)).last
    place = EventPlace(after or 0)
    while True:
        page = await insist(asking(after=place.after, since_ms=since_ms), deadline=None, on_trouble=on_trouble)
        for one in place.take(page):
            yield shown(one)
        if not place.is_behind(page):
            await asyncio.sleep(LOOK_S)


def blocking_follow(thread: LoopThread, events: AsyncIterator[Event | EventGap]) -> Iterator[Event | EventGap]:
    """Give what ``follow`` gives to who blocks."""

    async def following() -> Event | EventGap:
        return await anext(events)

    while True:
        yield thread.wait_for(following())


def event_list(pattern: str, fields: dict[str, int]) -> EventList:
    """Make the question. Raises BadInput naming what cannot be asked."""
    try:
        return msgspec.convert({"op": "event.list", "pattern": pattern, **fields}, EventList)
    except msgspec.ValidationError as error:
        raise BadInput(f"events: {error}", "a page has 1 to 200, a number is 0 or more") from error


async def _ask(session: ClientSession, message: EventList) -> Events:
    """Ask once. Raises Unreachable where another try may be answered."""
    try:
        return await session.centre.ask(message, Events)
    except RemoteError as error:
        if error.code in _FINAL:
            raise
        raise Unreachable(f"the centre cannot tell events now: {error.message}", "look into its log") from error
