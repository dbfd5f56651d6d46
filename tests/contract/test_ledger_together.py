"""Several adapters, each a process of its own, work on one ledger at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Event, Thread

from adapters.ledger import assignments, outbox, queries
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import Tx
from broker.routes import down
from schemas.jobs import JobStop
from tests.contract.ledger_fixtures import cluster, url
from tests.contract.ledger_worker import Worker

__all__ = ["cluster", "url"]

WORKER = Path(__file__).with_name("ledger_worker.py")
TURNS, BATCH = 60, 5
STALE = """
import sys, json
from adapters.ledger import outbox
from adapters.ledger.engine import Ledger
ledger = Ledger(sys.argv[1])
ledger.open()
got = []
while rows := ledger.write(lambda tx: outbox.stale(tx, 60_000, 7)):
    got += [row.message_id for row in rows]
print(json.dumps(got))
"""


def work_together(url: str, *roles: str) -> list[list[tuple[str, int, str, int]]]:
    """Run one process for each role at once, and give what each assigned."""
    open_once(url).close()
    begun = [
        subprocess.Popen(
            [sys.executable, WORKER, url, f"w{number}", role, str(TURNS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number, role in enumerate(roles)
    ]
    ended = [process.communicate(timeout=120) for process in begun]
    assert [process.returncode for process in begun] == [0] * len(roles), ended
    return [[tuple(row) for row in json.loads(out)] for out, _ in ended]


def open_once(url: str) -> Ledger:
    ledger = Ledger(url)
    ledger.open()
    return ledger


def test_each_job_and_each_request_is_matched_once_when_two_adapters_do_both(url: str) -> None:
    made = [row for rows in work_together(url, "both", "both") for row in rows]

    ledger = open_once(url)
    stats = ledger.read(queries.stats)
    ledger.close()
    assert len(made) == 2 * TURNS * BATCH
    assert max(Counter(job for job, *_ in made).values()) == 1
    assert max(Counter((vm, slot) for *_, vm, slot in made).values()) == 1
    assert (stats.jobs, stats.requests) == ({"assigned": len(made), "submitted": 0, "held": 0}, 0)


def test_no_pair_is_missed_when_one_adapter_has_the_jobs_and_another_the_requests(url: str) -> None:
    made = [row for rows in work_together(url, "feeds", "asks") for row in rows]

    ledger = open_once(url)
    stats = ledger.read(queries.stats)
    ledger.close()
    assert len(made) == TURNS * BATCH
    assert (stats.jobs["submitted"], stats.requests) == (0, 0)


def test_of_two_transactions_that_overlap_the_one_that_commits_last_finds_the_pair(url: str) -> None:
    feeder, asker = Worker(url, "feeds"), Worker(url, "asks")
    served = Event()

    def ask() -> None:
        asker.turn("asks", 1)
        served.set()

    def feed(tx: Tx) -> None:
        feeder.feed(tx, 1)
        assignments.match(tx)
        thread.start()
        served.wait(0.5)  # it cannot be served before this transaction is over; without the lock it misses the jobs

    thread = Thread(target=ask, daemon=True)
    feeder.ledger.write(feed)
    thread.join(30)

    assert [job.job for job in asker.made] == [f"site-a/feeds-1.{index}" for index in range(1, BATCH + 1)]
    feeder.ledger.close()
    asker.ledger.close()


def test_jobs_run_through_two_adapters_with_no_attempt_given_twice(url: str) -> None:
    made = [row for rows in work_together(url, "runs", "runs") for row in rows]

    assert {attempt for _, attempt, *_ in made} == {1}
    assert max(Counter(job for job, *_ in made).values()) == 1


def test_two_adapters_do_not_publish_the_same_stale_message(url: str) -> None:
    ledger = Ledger(url, clock=lambda: 1)
    ledger.open()
    messages = [JobStop(target="vm-1", job="site-a/one.1", attempt=1, reason="x") for _ in range(50)]
    for message in messages:
        ledger.write(lambda tx, one=message: outbox.put(tx, down("vm-1"), one))
    ledger.close()

    begun = [subprocess.Popen([sys.executable, "-c", STALE, url], stdout=subprocess.PIPE) for _ in range(2)]
    got = [message_id for process in begun for message_id in json.loads(process.communicate(timeout=60)[0])]

    assert sorted(got) == sorted(message.id for message in messages)
