"""What a supervisor does beside holding processes up: looking, cutting, remembering.

A chore that fails is told and begun again, with growing waits. None of them ends the system that it is there for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from broker.backoff import backoff
from volcloud.centre.stopping import Say

log = logging.getLogger(__name__)

#: Waits before a chore that has failed is begun again, seconds: the first, and what they grow to.
WAITS_S = (1.0, 60.0)


async def keep_doing(name: str, chore: Callable[[], Awaitable[None]], say: Say) -> None:
    """Do a chore that has no end, until cancelled; say once why it fails, for as long as it fails alike."""
    waits, said = backoff(*WAITS_S), ""
    while True:
        try:
            await chore()
        except Exception as error:
            why = f"{name}: {type(error).__name__}: {error}"
            if why != said:
                # The top of a task: what nobody foresaw is told with all that there is to know.
                log.exception("a chore failed", extra={"chore": name})
                say(f"{why}; trying again")
            said = why
        await asyncio.sleep(next(waits))
