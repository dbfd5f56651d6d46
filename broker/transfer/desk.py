"""Serves those that open transfers with one end, as many at once as there are places: everybody hears that it is there.

Whoever is over what there is room for is told to wait too, and is known no further: who opens a transfer asks until it
is served. One that has to give its place up waits again, and goes on where it got to; the other end notices a silence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from broker.transfer.places import Places, Room, Visit
from broker.transfer.transfers import Transfers
from schemas.files import FileGet, FileOffer, FileWait

log = logging.getLogger(__name__)


def _own(sender: str) -> str:
    return sender


class Desk:
    """See the module. Belongs to one loop."""

    def __init__(
        self,
        transfers: Transfers,
        room: Room,
        *,
        kin_of: Callable[[str], str] = _own,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``kin_of`` gives whose kin a sender is, by one name for all of them, without waiting; see ``recognise``."""
        self._transfers, self._clock = transfers, clock
        self._kin_of = kin_of
        self._places = Places(room)

    @property
    def known(self) -> int:
        """Transfers that are at work or wait."""
        return len(self._places)

    def offers(self) -> list[tuple[str, FileOffer]]:
        """List the files that come, or wait to come, each with its sender."""
        asking = self._places.asking(self._clock())
        return [(visit.sender, visit.opening) for visit in asking if isinstance(visit.opening, FileOffer)]

    def open(self, sender: str, opening: FileOffer | FileGet, serve: Callable[[], Awaitable[None]]) -> bool:
        """Have ``serve`` run when there is room; an opening that is known already is answered. False: over the limit.

        ``serve`` deals with its own failures; cancelled, it may be run again.
        """
        now_s = self._clock()
        visit = self._places.get(opening.id)
        if visit is not None:
            if visit.sender == sender:
                visit.asked_s = now_s
                self._have_one_give_way()
                self._answer(sender, opening)
            return True
        kin = self._kin_of(sender)
        visit = Visit(transfer=opening.id, sender=sender, kin=kin, asked_s=now_s, serve=serve, opening=opening)
        is_in = self._places.enter(visit, now_s)
        if is_in:
            self._begin()
            self._have_one_give_way()
        else:
            self._say_wait(sender, opening)
        return is_in

    def recognise(self, sender: str, kin: str) -> None:
        """It has become known whose kin a sender is."""
        self._places.recognise(sender, kin)
        self._begin()
        self._have_one_give_way()

    async def close(self) -> None:
        """End what is at work and forget what waits; the other ends ask again, here or elsewhere. Idempotent."""
        at_work = self._places.at_work()
        for visit in self._places.all():
            visit.gives_way = False
            if visit.task is None:
                self._places.leave(visit)
        tasks = [visit.task for visit in at_work if visit.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, sender: str, opening: FileOffer | FileGet) -> None:
        if not self._transfers.is_open(opening.id):
            self._say_wait(sender, opening)
        elif isinstance(opening, FileOffer):
            self._transfers.on_message(sender, opening)

    def _say_wait(self, sender: str, opening: FileOffer | FileGet) -> None:
        self._transfers.tell(sender, opening.reply, FileWait(transfer=opening.id))

    def _begin(self) -> None:
        """Begin what there is a place for."""
        while (visit := self._places.begin_next(self._clock())) is not None:
            visit.task = asyncio.ensure_future(visit.serve())
            visit.task.add_done_callback(partial(self._ended, visit))

    def _have_one_give_way(self) -> None:
        giving = self._places.give_way(self._clock(), self._transfers.is_finishing)
        if giving is not None and giving.task is not None:
            log.info("transfer gives way to others", extra={"transfer": giving.transfer, "peer": giving.sender})
            giving.task.cancel()

    def _ended(self, visit: Visit, task: asyncio.Task[Any]) -> None:
        if visit.gives_way and task.cancelled():
            self._places.put_back(visit, self._clock())
        else:
            self._places.leave(visit)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("transfer broke", extra={"transfer": visit.transfer, "peer": visit.sender}, exc_info=error)
        self._begin()
