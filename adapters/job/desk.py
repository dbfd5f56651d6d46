"""Where submissions are looked at before any transaction: a slow store holds up their submitter and nobody else.

A store is asked whether it has the inputs in a few threads of their own. One that does not answer in time, or cannot,
refuses the submission in words; nothing of it is kept, so it may come again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from adapters.ledger.submissions import Application, KnownInputs, look_at
from adapters.storage.errors import StoreError
from schemas.ledger import JobSubmit

log = logging.getLogger(__name__)

#: How long a store may take to say whether it has all inputs of one submission, seconds.
PATIENCE_S = 30.0
#: Submissions whose inputs are looked for at once.
THREADS = 4


class SubmissionDesk:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, known_inputs: KnownInputs, *, patience_s: float = PATIENCE_S) -> None:
        self._known_inputs, self._patience_s = known_inputs, patience_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="submissions")

    async def look_at(self, owner: str, message: JobSubmit) -> Application:
        """Judge a submission. Never raises for a store: a store that cannot say is a reason to refuse."""
        if not any(item.sha256 for item in message.job.inputs):
            return look_at(message, self._known_inputs)
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._in_thread(message)
        except TimeoutError:
            return _refused(message, f"the store has not answered in {self._patience_s:.0f} s")
        except StoreError as error:
            log.error("store cannot say", extra={"owner": owner, "why": str(error)})
            return _refused(message, str(error))

    def close(self) -> None:
        """Begin nothing more; what a store still holds ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, message: JobSubmit) -> Application:
        until_s = time.monotonic() + self._patience_s
        ask = partial(look_at, message, lambda digest: self._ask(digest, until_s))
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _ask(self, digest: str, until_s: float) -> bool:
        """Ask for one digest; gives up when nobody waits for the answer any more."""
        if time.monotonic() > until_s:
            raise StoreError("the store answers too slowly")
        return self._known_inputs(digest)


def _refused(message: JobSubmit, why: str) -> Application:
    reason = f"whether the store has the inputs cannot be said: {why}; submit again later, under the same id"
    return msgspec.structs.replace(look_at(message, lambda _: True), reasons=[reason])
