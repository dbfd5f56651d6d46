"""One of several processes that work on one ledger at once: ``ledger_worker.py URL NAME ROLE TURNS``.

It prints the assignments that it made, as JSON. ``both`` submits and asks in turn, ``feeds`` only submits,
``asks`` only asks, ``runs`` also completes what it is given, with the next request riding along.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from adapters.ledger import assignments, completions, outbox, requests, submissions
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import OutboxRow, Tx
from schemas.codec import decode, unbundle
from schemas.description import JobDescription
from schemas.jobs import JobAssign, JobCompletion, JobRequest, Machine, Outcome
from schemas.ledger import JobSubmit

MACHINE = Machine(cpus=1, memory_mib=1024, disk_mib=4096, platform="linux/x86_64")
#: Jobs of a submission, slots that ask, a turn.
BATCH = 5


class Worker:
    """An adapter without a broker."""

    def __init__(self, url: str, name: str) -> None:
        self.ledger = Ledger(url, instance=f"adapter-{name}")
        self.ledger.open()
        self.name = name
        self.made: list[JobAssign] = []

    def feed(self, tx: Tx, turn: int) -> None:
        job = JobDescription(id=f"{self.name}-{turn}", executable="x", array=BATCH)
        submissions.submit(tx, "site-a", submissions.check(JobSubmit(job=job), lambda digest: True))

    def ask(self, tx: Tx, turn: int) -> None:
        batch = [(f"vm-{self.name}-{turn}", self.request(slot)) for slot in range(BATCH)]
        requests.ask_all(tx, batch)

    def request(self, slot: int) -> JobRequest:
        return JobRequest(slot=slot, machine=MACHINE, generation=1)

    def complete(self, tx: Tx, jobs: Iterable[JobAssign]) -> None:
        ended = [
            (
                job.target,
                JobCompletion(job=job.job, attempt=job.attempt, outcome=Outcome.DONE, request=self.request(job.slot)),
            )
            for job in jobs
        ]
        completions.complete_all(tx, ended)

    def turn(self, role: str, turn: int) -> None:
        last = self.made[-BATCH:] if role == "runs" else []

        def work(tx: Tx) -> list[OutboxRow]:
            if role in ("both", "feeds", "runs"):
                self.feed(tx, turn)
            if role in ("both", "asks") or not last:
                self.ask(tx, turn) if role != "feeds" else None
            self.complete(tx, last)
            assignments.match(tx)
            return outbox.fresh(tx)

        sent = [decode(body) for row in self.ledger.write(work) for body in unbundle(row.body)]
        self.made += [message for message in sent if isinstance(message, JobAssign)]


def main(url: str, name: str, role: str, turns: str) -> None:
    worker = Worker(url, name)
    for turn in range(int(turns)):
        worker.turn(role, turn)
    worker.ledger.close()
    print(json.dumps([[job.job, job.attempt, job.target, job.slot] for job in worker.made]))


if __name__ == "__main__":
    main(*sys.argv[1:])
