"""Two adapters of one real DiracX, and a monkey that kills them, the ledger and the grid by a seed.

A payload notes each time that it begins in a file of its own. What the grid's history says, and what our ledger says,
is held against that.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.ledger.takings import CLAIM_MS, LAPSED_MS
from tests.contract.ledger_fixtures import Cluster
from tests.sources.diracx_peer import DiracxPeer, demand_diracx
from tests.system.chaos import insist, seed_of_this_run
from tests.system.running import System, open_to_all, running, until
from volcloud import Client

SITE = "CLOUD.Volunteer.org"
OWNER = "adapter-source-biomed"
#: No VM is killed here: a lease that runs out would be the machine's doing. VMs ask often.
SYSTEM = ("--hypervisor", "process", "--vms", "4", "--lease-s", "60")
#: Between two faults, and how long all may take once the monkey rests, seconds: what was taken and not written down is
#: given back, and found when the grid is asked again.
BETWEEN_S, RECOVERY_S = (2.0, 6.0), 240.0 + (LAPSED_MS + 2 * CLAIM_MS) / 1000
ENDS = ("Done", "Failed", "Killed")
#: Jobs that are submitted in one call.
PORTION = 20
#: Where there are so many jobs an adapter is stopped once, for longer than what it takes is its own, seconds.
MANY_JOBS, STOPPED_S = 100, LAPSED_MS / 1000 + 15


def demand_each_done_once(cluster: Cluster, directory: Path, jobs: int) -> None:
    """Have so many jobs of a DiracX of their own done under this run's monkey; fail with what went wrong."""
    demand_diracx()
    grid_directory, seed = directory / "diracx", seed_of_this_run()
    grid_directory.mkdir()
    grid = DiracxPeer(grid_directory)
    try:
        faults = twins(grid, cluster, directory, seed, jobs)
    finally:
        grid.close()
    assert faults == [], "\n".join([f"CHAOS_SEED={seed} runs the same monkey again", *faults])


def twins(grid: DiracxPeer, cluster: Cluster, directory: Path, seed: int, jobs: int) -> list[str]:
    """Run the jobs under a monkey; name what went wrong. Prints the seed and all that the monkey did."""
    url = cluster.create("template1").replace("postgresql://", "postgresql+psycopg://")
    dirac = {
        "kind": "dirac",
        "adapters": 2,
        "url": grid.url,
        "site": SITE,
        "operator_credential": str(grid.credential(directory / "operator.json", "operator", "operators")),
        "pilot_credential": str(grid.credential(directory / "pilot.json", "pilot", "pilots")),
    }
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in dirac.items())
    with (
        open_to_all() as runs,
        running(*SYSTEM, "--ledger", url, "--set", f"sources={{biomed = {{{table}}}}}") as system,
        system.client() as client,
    ):
        names = _submitted(grid, runs, jobs)
        monkey = _Monkey(system, grid, url, seed)
        if jobs >= MANY_JOBS:
            monkey.stop_for_long("source_adapter-biomed-2")
        deadline = time.monotonic() + jobs * 6.0 + 180
        while _ended(grid, names) < jobs * 0.8:
            assert time.monotonic() < deadline, f"most jobs have not ended under the monkey, seed {seed}"
            monkey.harm_or_wait(most=jobs // 2)
        print(f"seed {seed}, {len(monkey.told)} faults", *monkey.told, sep="\n")
        try:
            until(lambda: not [*_faults_at_grid(grid, names)], "all have ended as they should", RECOVERY_S)
        except AssertionError as late:
            faults = [*_faults_at_grid(grid, names), *_left(system, client, grid, names)]
            raise AssertionError("\n".join([str(late), *faults])) from late
        return [*_faults_here(client, runs, names)]


def _submitted(grid: DiracxPeer, runs: Path, jobs: int) -> list[int]:
    # No semicolon: for DIRAC it ends a value, within quotes too.
    mark = f"mktemp {runs}/%j-XXXXXX && sleep 3 && echo done"
    jdl = f'Executable = "/bin/sh"; Arguments = "-c \'{mark}\'"; Site = "{SITE}"; StdOutput = "std.out";'
    return [name for start in range(0, jobs, PORTION) for name in grid.submit(*([jdl] * min(PORTION, jobs - start)))]


def _ended(grid: DiracxPeer, names: list[int]) -> int:
    """Count those that have a final status."""
    return sum(row["Status"] in ENDS for row in grid.rows(*names).values())


def _left(system: System, client: Client, grid: DiracxPeer, names: list[int]) -> Iterator[str]:
    """Say how those are that have not ended, and what the adapters say."""
    known = {row.job: str(row.state) for row in _all_jobs(client)}
    for name, row in grid.rows(*names).items():
        if row["Status"] not in ENDS:
            ours = {ref: state for ref, state in known.items() if ref.startswith(f"{OWNER}/{name}-")}
            owed = [client.jobs.show(ref).cause for ref in ours]
            yield f"{name} at the grid: {row['Status']}, {row['MinorStatus']}; here {ours} {owed}"
    yield str(client.sources.list())
    for log in sorted(system.layout.logs.glob("source_adapter*.log")):
        yield f"{log.name}: {log.read_text()[-2000:]}"


def _faults_at_grid(grid: DiracxPeer, names: list[int]) -> Iterator[str]:
    """Each is Done, and nothing else ever ended it. A killed adapter's word may be said again, and a beat that was on
    its way may undo it for a while: DiracX compares statuses and sets them with no lock."""
    for name, row in grid.rows(*names, history=True).items():
        steps = [step["Status"] for step in row["LoggingInfo"] if not step["Source"].endswith("(SM)")]
        after = steps[steps.index("Done") :] if "Done" in steps else steps
        if row["Status"] != "Done" or not {*after} <= {"Done", "Completing", "Running"}:
            lines = [f"{step['StatusTime']} {step['Status']} by {step['Source']}" for step in row["LoggingInfo"]]
            yield "\n".join([f"{name} at the grid: {row['Status']}, its history:", *lines])


def _faults_here(client: Client, runs: Path, names: list[int]) -> Iterator[str]:
    began = Counter(path.name.partition("-")[0] for path in runs.iterdir())
    rows = {row.job: row for row in _all_jobs(client)}
    for name in map(str, names):
        tries = {ref: row for ref, row in rows.items() if ref.startswith(f"{OWNER}/{name}-")}
        states = Counter(str(row.state) for row in tries.values())
        if states != {"done": 1}:
            yield f"{name} here: {dict(states)}"
        if began[name] != 1:
            attempts = [insist(lambda ref=ref: client.jobs.show(ref)).attempts for ref in tries]
            yield f"{name}: its payload began {began[name]} times; {attempts}"


def _all_jobs(client: Client) -> Iterator[Any]:
    before: int | None = None
    while page := insist(partial(client.jobs.list, owner=OWNER, limit=500, before=before)):
        yield from page
        before = page[-1].number


class _Monkey:
    """Kills an adapter of the source, the database's connections, or the grid, each time that it is told to.

    It is no thread: the grid's server would end with it.
    """

    def __init__(self, system: System, grid: DiracxPeer, url: str, seed: int) -> None:
        self.told: list[str] = []
        self._system, self._grid, self._url, self._random = system, grid, url, random.Random(seed)
        self._began = time.monotonic()
        #: An adapter that is stopped, and until when, seconds.
        self._stopped, self._until_s = 0, 0.0

    def stop_for_long(self, name: str) -> None:
        """Stop an adapter in the midst of what it does."""
        time.sleep(self._random.uniform(*BETWEEN_S))
        self._stopped, self._until_s = self._system.pid(name), time.monotonic() + STOPPED_S
        self.told.append(f"{time.monotonic() - self._began:6.1f} s: {name} stopped")
        os.kill(self._stopped, signal.SIGSTOP)

    def rest(self) -> None:
        """Do no more harm: what is stopped goes on."""
        if self._stopped:
            with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                os.kill(self._stopped, signal.SIGCONT)
            self.told.append(f"{time.monotonic() - self._began:6.1f} s: it goes on")
        self._stopped = 0

    def harm_or_wait(self, most: int) -> None:
        """Wait a little, and do harm once, but no more than ``most`` times in all."""
        harms: dict[str, Callable[[], None]] = {
            "source_adapter-biomed": lambda: self._system.kill("source_adapter-biomed"),
            "source_adapter-biomed-2": lambda: self._system.kill("source_adapter-biomed-2"),
            "ledger": self._kill_ledger,
            "grid": self._kill_grid,
        }
        time.sleep(self._random.uniform(*BETWEEN_S))
        if time.monotonic() > self._until_s:
            self.rest()
        elif self._stopped:
            del harms["source_adapter-biomed-2"]
        if len(self.told) >= most:
            return
        victim = self._random.choice(sorted(harms))
        self.told.append(f"{time.monotonic() - self._began:6.1f} s: {victim} killed")
        harms[victim]()

    def _kill_ledger(self) -> None:
        """Kill a process of the database, which ends all its others and recovers from its log."""
        engine = create_engine(self._url)
        with contextlib.suppress(SQLAlchemyError, ProcessLookupError), engine.connect() as connection:
            os.kill(connection.execute(text("SELECT pg_backend_pid()")).scalar_one(), signal.SIGKILL)
        engine.dispose()

    def _kill_grid(self) -> None:
        self._grid.kill()
        time.sleep(self._random.uniform(0, 5))
        self._grid.begin_again()
