"""What sites ask after their own jobs, and order: others' are to a site as jobs that were never there.

An order is carried out a portion an answer. What a site is told of where its jobs ran is what it needs to understand
how they ended, and nothing of a volunteer's machine.
"""

from __future__ import annotations

from msgspec.structs import replace

from adapters.job.calls import ANSWERS, answer_of_ledger, fitting, portion_of_order
from adapters.ledger.attempt_work import Work
from adapters.ledger_writer import LedgerWriter
from adapters.site_door import Refuse, SiteDoor
from broker.carrier import Carrier
from schemas.envelope import Message, Reply
from schemas.ledger import JobCancel, JobDelete, JobList, JobRecord, JobRetry, JobsChanged, JobShow, JobState

#: What a site may ask and order.
TAKEN: frozenset[type[Message]] = frozenset({JobList, JobShow, JobCancel, JobRetry, JobDelete})
#: Questions that are looked up at a time, and jobs in a page.
AT_ONCE, MOST_LISTED = 2, 100


class SiteAsks:
    """Answers ``vc.asks``."""

    def __init__(self, connection: Carrier, writer: LedgerWriter, refuse: Refuse) -> None:
        self._writer = writer
        self.door = SiteDoor(connection, refuse, TAKEN, self._answer, at_once=AT_ONCE, render=fitting)

    async def _answer(self, site: str, message: Message) -> Reply:
        if type(message) not in ANSWERS:
            portion = await portion_of_order(self._writer, site, message, owner=site)
            more = not portion.is_last
            return JobsChanged(call=message.id, changed=portion.changed, pending=portion.pending, more=more)
        if isinstance(message, JobList):
            message = replace(message, limit=min(message.limit, MOST_LISTED))
        answer = await answer_of_ledger(self._writer, message, owner=site)
        return _for_a_site(answer) if isinstance(answer, JobRecord) else answer


def _for_a_site(record: JobRecord) -> JobRecord:
    """Leave out what is told of volunteers' machines, and steps that a person takes at the centre."""
    unsaid = {"host": "", "vm_name": "", "boot_id": "", "hypervisor": "", "hypervisor_pid": 0}
    return replace(
        record,
        attempts=[replace(one, outputs=Work(outputs=one.outputs).readable(), **unsaid) for one in record.attempts],
        next_step="`job.retry` releases it" if record.job.state is JobState.HELD else "",
    )
