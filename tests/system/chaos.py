"""Jobs that tell of themselves, and a monkey that kills and stops a system's processes, by a seed, while they run.

A payload notes each time that it begins in a file of its own, outside of all that the system keeps: what the ledger
says is held against that. The monkey chooses by its seed alone; which process is in which step is the machine's doing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from broker.errors import BrokerError
from schemas.ledger import JobRecord, JobState
from tests.system.running import System, open_to_all, running, until
from volcloud import Client
from volcloud.errors import VolcloudError

T = TypeVar("T")

#: Two adapters of each kind, one broker, four VMs.
SYSTEM = ("--hypervisor", "process", "--vms", "4", "--job-adapters", "2", "--storage-adapters", "2")
#: How long the system may take when all is well again, seconds; on a machine five times slower than ours.
RECOVERY_S = 300.0
#: Jobs of one submission.
ARRAY = 100
#: Each nth job writes more than rides in a completion.
LARGE_EACH = 10
LARGE_LINES = 40_000

#: Notes its start, works a little, and writes what follows from its input and its index.
SCRIPT = """
echo "$VOLCLOUD_JOB $VOLCLOUD_ATTEMPT $(cut -d' ' -f22 /proc/$$/stat)" >> {runs}/"${{VOLCLOUD_JOB##*/}}"
sleep $(awk -v i={{index}} 'BEGIN {{{{ print 0.05 + (i * 37 % 60) / 100 }}}}')
cat input > out
echo {{index}} >> out
if [ $(({{index}} % {large_each})) = 0 ]; then seq {large_lines} >> out; fi
"""


def chaos(directory: Path, seed: int, jobs: int, between_s: tuple[float, float], *options: str) -> list[str]:
    """Run the jobs under a monkey; name what went wrong. Prints the seed and all that the monkey did."""
    with open_to_all() as runs, running(*SYSTEM, *options) as system, system.client() as client:
        work = Work(directory, runs, seed, jobs)
        with Monkey(system, seed, between_s) as monkey:
            work.submit(client)
            until(lambda: work.counts(client)["done"] > jobs * 0.9, "most jobs are done under the monkey", jobs * 3.0)
        print(f"seed {seed}, {len(monkey.told)} faults", *monkey.told, sep="\n")
        until(lambda: work.counts(client)["done"] == jobs, f"all is done: {work.counts(client)}", RECOVERY_S)
        return work.faults(client, directory)


def seed_of_this_run() -> int:
    """The seed that a person gave (CHAOS_SEED), or a new one."""
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))


class Work:
    """The jobs of a run: submitted, and afterwards held against the ledger."""

    def __init__(self, directory: Path, runs: Path, seed: int, jobs: int) -> None:
        self.runs = runs
        self.names = [f"chaos-{seed}-{number}" for number in range(jobs // ARRAY)]
        self._input = directory / "input"
        self._input.write_bytes(random.Random(seed).randbytes(100_000))

    def submit(self, client: Client) -> None:
        """Hand in every array; asked again until it is answered, which changes nothing."""
        script = SCRIPT.format(runs=self.runs, large_each=LARGE_EACH, large_lines=LARGE_LINES)
        for name in self.names:
            job = {
                "id": name,
                "executable": "/bin/sh",
                "arguments": ["-c", script],
                "array": ARRAY,
                "inputs": [{"name": "input", "path": str(self._input)}],
                "outputs": [{"name": "out"}],
                "attempts": 1,
            }
            insist(lambda job=job: client.jobs.submit(job))

    def counts(self, client: Client) -> Counter[str]:
        """How many jobs are in which state."""
        found: Counter[str] = Counter()
        for name in self.names:
            found.update(insist(lambda name=name: client.jobs.list(job=name, limit=1)).counts)
        return found

    def refs(self) -> Iterator[str]:
        """Name every job."""
        return (f"{name}.{index}" for name in self.names for index in range(1, ARRAY + 1))

    def faults(self, client: Client, directory: Path) -> list[str]:
        """Hold every job against what its payloads noted and against what its output has to be; name what is wrong."""
        return [fault for ref in self.refs() for fault in self._faults_of(client, ref, directory / ref)]

    def _faults_of(self, client: Client, ref: str, home: Path) -> Iterator[str]:
        record = insist(lambda: client.jobs.show(ref))
        yield from faults_of_record(record)
        yield from faults_of_runs(record, self._begun(ref))
        if record.job.state == JobState.DONE:
            insist(lambda: client.jobs.fetch(ref, home))
            index = int(ref.rpartition(".")[2])
            if (home / "out").read_bytes() != self._expected(index):
                digest = hashlib.sha256((home / "out").read_bytes()).hexdigest()
                yield f"{ref}: its output is not its own: {digest}"

    def _begun(self, ref: str) -> Counter[int]:
        """How often a payload of each attempt began."""
        file = self.runs / ref.rpartition("/")[2]
        lines = file.read_text().splitlines() if file.exists() else []
        return Counter(int(line.split()[1]) for line in lines)

    def _expected(self, index: int) -> bytes:
        large = b"".join(b"%d\n" % line for line in range(1, LARGE_LINES + 1)) if index % LARGE_EACH == 0 else b""
        return self._input.read_bytes() + b"%d\n" % index + large


def faults_of_record(record: JobRecord) -> Iterator[str]:
    """Say what is wrong with a job's row and attempts: one is done, and each other has a cause that people can read."""
    states = Counter(attempt.state for attempt in record.attempts)
    if record.job.state != JobState.DONE or states["done"] != 1:
        yield f"{record.job.job}: {record.job.state}, attempts {dict(states)}: {record.job.reason}"
    for attempt in record.attempts:
        if attempt.state not in ("done", "returned") and not attempt.cause:
            yield f"{record.job.job}: attempt {attempt.attempt} is {attempt.state} without a cause"


def faults_of_runs(record: JobRecord, begun: Counter[int]) -> Iterator[str]:
    """Say which attempt's payload ran twice, or ran unknown to the ledger, or never though the job is done."""
    known = {attempt.attempt: attempt for attempt in record.attempts}
    given_back = [event for event in record.events if event.event == "returned"]
    for number, times in begun.items():
        if times > 1:
            yield f"{record.job.job}: the payload of attempt {number} began {times} times"
        if number not in known:
            yield f"{record.job.job}: a payload of attempt {number} ran, which the ledger does not know"
        elif any(event.noticed_by.endswith("(guest agent)") for event in given_back if event.attempt == number):
            # What the ledger took back its guest may have begun without having said so: that has a cause of its own.
            cause = known[number].cause
            yield f"{record.job.job}: attempt {number} was given back ({cause}), and its payload ran"
    if record.job.state == JobState.DONE and not begun:
        yield f"{record.job.job}: done, and no payload ever began"


class Monkey:
    """Kills or stops a random process of the system, at random ``between_s`` of each other, until ``rest``."""

    def __init__(self, system: System, seed: int, between_s: tuple[float, float]) -> None:
        self.told: list[str] = []
        self._system, self._random, self._between_s = system, random.Random(seed), between_s
        self._rested = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monkey", daemon=True)
        self._began = time.monotonic()

    def __enter__(self) -> Monkey:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def rest(self) -> None:
        """Do no more; what stands still goes on. Idempotent."""
        self._rested.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._rested.wait(self._random.uniform(*self._between_s)):
            processes = self._system.processes()
            victim = self._random.choice(sorted(processes))
            stop_s = self._random.choice([0.0, self._random.uniform(1, 6)])
            what = f"stopped for {stop_s:.1f} s" if stop_s else "killed"
            self.told.append(f"{time.monotonic() - self._began:6.1f} s: {victim} {what}")
            with contextlib.suppress(ProcessLookupError):
                self._harm(processes[victim], stop_s)

    def _harm(self, pid: int, stop_s: float) -> None:
        if not stop_s:
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGSTOP)
        self._rested.wait(stop_s)
        os.kill(pid, signal.SIGCONT)


def insist(ask: Callable[[], T], patience_s: float = 120.0) -> T:
    """Ask until there is an answer: a console gives up within seconds where a person would try again."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except (BrokerError, VolcloudError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
