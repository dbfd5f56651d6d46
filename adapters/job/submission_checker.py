"""Where submissions are looked at before any transaction: a slow store holds up their submitter and nobody else.

A store is asked whether it has the inputs in a few threads of their own, for several inputs of one submission at once.
One that does not answer in time, or cannot, refuses the submission in words; nothing of it is kept, so it may come
again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from adapters.errors import StoreError
from adapters.ledger.submissions import CheckedSubmission, KnownInputs, check
from schemas.ledger import JobSubmit

log = logging.getLogger(__name__)

#: How long a store may take to say whether it has all inputs of one submission, seconds.
PATIENCE_S = 30.0
#: Inputs that are looked for at once, and of one submission: many inputs do not keep others' waiting.
THREADS, THREADS_OF_ONE = 16, 8


class SubmissionChecker:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, known_inputs: KnownInputs, *, patience_s: float = PATIENCE_S) -> None:
        self._known_inputs, self._patience_s = known_inputs, patience_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="submissions")

    async def check(self, owner: str, message: JobSubmit) -> CheckedSubmission:
        """Judge a submission. Never raises for a store: a store that cannot say is a reason to refuse."""
        if not any(item.sha256 for item in message.job.inputs):
            return check(message, self._known_inputs)
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._ask_all(message)
        except TimeoutError:
            return _refused(message, f"the store has not answered in {self._patience_s:.0f} s")
        except StoreError as error:
            log.error("store cannot say", extra={"owner": owner, "why": str(error)})
            return _refused(message, str(error))

    def close(self) -> None:
        """Begin nothing more; what a store still holds ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_all(self, message: JobSubmit) -> CheckedSubmission:
        """Ask for each digest once, several together, then judge. Raises StoreError, and asks for no more then."""
        digests = {item.sha256 for item in message.job.inputs if item.sha256}
        until_s, places = time.monotonic() + self._patience_s, asyncio.Semaphore(THREADS_OF_ONE)
        loop = asyncio.get_running_loop()

        async def ask(digest: str) -> bool:
            async with places:
                return await loop.run_in_executor(self._threads, self._ask, digest, until_s)

        try:
            async with asyncio.TaskGroup() as group:
                asked = {digest: group.create_task(ask(digest)) for digest in digests}
        except ExceptionGroup as errors:
            # Not by except*: what is raised in it is put into another group by Python before 3.11.4.
            raise _first(errors) from errors
        there = {digest: task.result() for digest, task in asked.items()}
        return await loop.run_in_executor(self._threads, check, message, there.__getitem__)

    def _ask(self, digest: str, until_s: float) -> bool:
        """Ask for one digest; gives up when nobody waits for the answer any more."""
        if time.monotonic() > until_s:
            raise StoreError("the store answers too slowly")
        return self._known_inputs(digest)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _refused(message: JobSubmit, why: str) -> CheckedSubmission:
    reason = f"whether the store has the inputs cannot be said: {why}; submit again later, under the same id"
    return msgspec.structs.replace(check(message, lambda _: True), reasons=[reason])
