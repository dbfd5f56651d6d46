"""Serves those that open transfers with one end, as many at once as may be at work; everybody hears that it is there.

Whoever is over what there is room for is told to wait too, and is known no further: who opens a transfer asks until it
is served. One that has to give its place up waits again, and goes on where it got to; the other end notices a silence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from broker.daemon.tasks import OwnedTasks
from broker.transfer.scheduler import Scheduler, TransferLimits, TransferRequest
from broker.transfer.transfers import Transfers
from schemas.files import FileGet, FileOffer, FileWait

log = logging.getLogger(__name__)


def _own(sender: str) -> str:
    return sender


class TransferQueue:
    """See the module. Belongs to one loop."""

    def __init__(
        self,
        transfers: Transfers,
        limits: TransferLimits,
        *,
        kin_of: Callable[[str], str] = _own,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``kin_of`` gives whose kin a sender is, by one name for all of them, without waiting; see ``recognise``."""
        self._transfers, self._clock = transfers, clock
        self._kin_of = kin_of
        self._scheduler = Scheduler(limits)
        self._tasks = OwnedTasks("transfers")

    @property
    def known(self) -> int:
        """Transfers that are at work or wait."""
        return len(self._scheduler)

    def offers(self) -> list[tuple[str, FileOffer]]:
        """List the files that come, or wait to come, each with its sender."""
        asking = self._scheduler.asking(self._clock())
        return [(request.sender, request.opening) for request in asking if isinstance(request.opening, FileOffer)]

    def open(self, sender: str, opening: FileOffer | FileGet, serve: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Have ``serve`` run when there is room; an opening that is known already is answered. False: over the limit.

        ``serve`` deals with its own failures; cancelled, it may be run again.
        """
        now_s = self._clock()
        request = self._scheduler.get(opening.id)
        if request is not None:
            if request.sender == sender:
                request.asked_s = now_s
                self._preempt_one()
                self._answer(sender, opening)
            return True
        kin = self._kin_of(sender)
        request = TransferRequest(
            transfer=opening.id, sender=sender, kin=kin, asked_s=now_s, serve=serve, opening=opening
        )
        is_in = self._scheduler.enter(request, now_s)
        if is_in:
            self._begin()
            self._preempt_one()
        else:
            self._say_wait(sender, opening)
        return is_in

    def recognise(self, sender: str, kin: str) -> None:
        """It has become known whose kin a sender is."""
        self._scheduler.recognise(sender, kin)
        self._begin()
        self._preempt_one()

    async def close(self) -> None:
        """End what is at work and forget what waits; the other ends ask again, here or elsewhere. Idempotent."""
        for request in self._scheduler.all():
            request.is_preempted = False
            if request.task is None:
                self._scheduler.leave(request)
        await self._tasks.cancel()

    def _answer(self, sender: str, opening: FileOffer | FileGet) -> None:
        if not self._transfers.is_open(opening.id):
            self._say_wait(sender, opening)
        elif isinstance(opening, FileOffer):
            self._transfers.on_message(sender, opening)

    def _say_wait(self, sender: str, opening: FileOffer | FileGet) -> None:
        self._transfers.tell(sender, opening.reply, FileWait(transfer=opening.id))

    def _begin(self) -> None:
        """Begin what there is a place for."""
        while (request := self._scheduler.begin_next(self._clock())) is not None:
            name = f"transfer {request.transfer} with {request.sender}"
            request.task = self._tasks.spawn(request.serve(), name=name)
            request.task.add_done_callback(partial(self._ended, request))

    def _preempt_one(self) -> None:
        giving = self._scheduler.preempt(self._clock(), self._transfers.is_finishing)
        if giving is not None and giving.task is not None:
            log.info("transfer gives way to others", extra={"transfer": giving.transfer, "peer": giving.sender})
            giving.task.cancel()

    def _ended(self, request: TransferRequest, task: asyncio.Task[Any]) -> None:
        if request.is_preempted and task.cancelled():
            self._scheduler.requeue(request, self._clock())
        else:
            self._scheduler.leave(request)
        self._begin()
