"""How many of the messages that wait make up one transaction: as many as are quickly written. Pure.

A batch saves a transaction for each message; but whoever comes after it waits until all of it is written, so what one
message makes the ledger read and write counts, and not messages alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapters.ledger.arrays import first_portion
from schemas.envelope import Message
from schemas.jobs import AgentHello, JobBeat, JobCompletion, JobRequest, JobWithdraw
from schemas.ledger import JobSubmit
from schemas.vms import HostInventory

#: Messages in one transaction.
MOST_MESSAGES = 400
#: Rows that the messages in one transaction are about; a message of more has one to itself.
MOST_ROWS = 2000
#: Outputs whose entries cost what a row does.
OUTPUTS_A_ROW = 10


def batch_size(waiting: Iterable[Message]) -> int:
    """Say how many of these messages, from the first, are the next batch: at least one if there is one."""
    messages = rows = 0
    for message in waiting:
        rows += rows_of(message)
        if messages == MOST_MESSAGES or (messages and rows > MOST_ROWS):
            break
        messages += 1
    return messages


def rows_of(message: Message) -> int:
    """Say how many rows of the ledger a message is about, roughly: its sender decides that."""
    match message:
        case JobSubmit(job=job):
            return first_portion(job.array)
        case JobBeat(holding=holding) | AgentHello(holding=holding):
            return 1 + len(holding)
        case JobRequest(holding=held, more=more):
            return 1 + len(held) + len(more)
        case JobCompletion(request=request, outputs=outputs):
            return 1 + len(outputs) // OUTPUTS_A_ROW + (rows_of(request) if request else 0)
        case JobWithdraw(slots=slots):
            return len(slots)
        case HostInventory(vms=vms):
            return 1 + len(vms)
    return 1
