"""Completions on their way out: written down, told until they are answered, files removed, forgotten."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from broker.backoff import backoff
from broker.daemon.tasks import OwnedTasks
from broker.errors import CallTimeout, NotDelivered, RemoteError
from broker.rpc import Uplink
from guest_agent.attempt import Attempt
from guest_agent.resources import Resources
from schemas.envelope import Reply
from schemas.jobs import JobCompletion, JobCompletionAnswer

log = logging.getLogger(__name__)

#: How long a completion waits for others to be written down and told with, while the slot has more to do, seconds.
GATHER_S, TOGETHER_S = 0.1, 0.002
#: How long files of attempts that were answered are gathered before they are removed, seconds.
DISCARD_AFTER_S = 0.1
#: How long a completion waits for its answer before it is sent again, seconds.
ANSWER_S = 30.0


class Completions:
    """See the module. ``tasks`` owns what goes on; ``forget`` is called when an attempt's end was answered."""

    def __init__(
        self,
        uplink: Uplink,
        resources: Resources,
        forget: Callable[[Attempt], None],
        tasks: OwnedTasks,
    ) -> None:
        self._uplink, self._resources = uplink, resources
        self._forget, self._tasks = forget, tasks
        self._done_with: list[tuple[Attempt, asyncio.Future[None]]] = []
        #: One for each attempt that has ended and whose files are there; done when they are gone.
        self._in_the_way: set[asyncio.Future[None]] = set()

    async def complete(self, attempt: Attempt, completion: JobCompletion, *, within_s: float = 0.0) -> None:
        """Have a completion written down, then sent, both ``within_s``, until it is answered; then forget it."""
        gone = asyncio.get_running_loop().create_future()
        self._in_the_way.add(gone)
        go_at = time.monotonic() + within_s
        await attempt.write_down(completion, within_s=within_s)
        within_s = max(TOGETHER_S, go_at - time.monotonic()) if within_s else 0.0
        self._discard_soon(attempt, gone)
        await self._tell(attempt, completion, within_s)
        await self._resources.journal.end(attempt.assign.id)
        self._forget(attempt)

    async def settle(self) -> None:
        """Wait until nothing of what has ended by now takes room on the disk; what ends later holds nobody up."""
        if self._in_the_way:
            await asyncio.wait(self._in_the_way)

    async def _tell(self, attempt: Attempt, completion: JobCompletion, within_s: float) -> None:
        for wait_s in backoff(0.5, 20.0):
            try:
                answer = await self._uplink.ask_batched("completion", completion, timeout_s=ANSWER_S, within_s=within_s)
            except CallTimeout as error:
                attempt.trouble = f"completion: {error}"
            except (RemoteError, NotDelivered) as error:
                attempt.trouble = f"completion: {error}"
                await asyncio.sleep(wait_s)
            else:
                _note_answer(attempt, answer)
                return

    def _discard_soon(self, attempt: Attempt, gone: asyncio.Future[None]) -> None:
        """Remove files in a thread, many attempts' at once: a hop to a thread costs more than most of them."""
        self._done_with.append((attempt, gone))
        if len(self._done_with) == 1:
            self._tasks.spawn(self._discard())

    async def _discard(self) -> None:
        await asyncio.sleep(DISCARD_AFTER_S)
        done_with, self._done_with = self._done_with, []
        await asyncio.to_thread(_discard_all, [attempt for attempt, _ in done_with])
        for _, gone in done_with:
            self._in_the_way.discard(gone)
            gone.set_result(None)


def _note_answer(attempt: Attempt, answer: Reply) -> None:
    if isinstance(answer, JobCompletionAnswer) and not answer.counted:
        log.info("completion did not count", extra={"job": attempt.assign.job, "why": answer.reason})


def _discard_all(attempts: list[Attempt]) -> None:
    for attempt in attempts:
        attempt.discard()
