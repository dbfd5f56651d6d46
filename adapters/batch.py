"""How many of the messages that wait make up one transaction: as many as are quickly written. Pure.

A batch saves a transaction for each message; but whoever comes after it waits until all of it is written, so what one
message makes the ledger write counts, and not messages alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.envelope import Message
from schemas.ledger import JobSubmit

#: Messages in one transaction.
MOST_MESSAGES = 400
#: Jobs that the submissions in one transaction make; a larger array has one to itself.
MOST_JOBS = 2000


def batch_size(waiting: Iterable[Message]) -> int:
    """Say how many of these messages, from the first, are the next batch: at least one if there is one."""
    messages = jobs = 0
    for message in waiting:
        jobs += message.job.array if isinstance(message, JobSubmit) else 0
        if messages == MOST_MESSAGES or (messages and jobs > MOST_JOBS):
            break
        messages += 1
    return messages
