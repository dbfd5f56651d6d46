"""``host_agent`` under BOINC: the frozen program beside the same from its sources, and what it costs a volunteer.

The client is the one that is played (``host_agent.boinc.fake_client``), so that the real one's own pace, a look a
second, is in no figure. The program that the agent runs computes all the time, so the agent has a core less.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.alternation import alternate, say
from benchmarks.boinc import generator, guest
from benchmarks.boinc.slot import ROOT
from benchmarks.figures import Figure
from broker.daemon.process_stat import ProcessStat, read_stat
from deploy.boinc.freeze import freeze
from host_agent.boinc.fake_client import FakeClient
from host_agent.hypervisors.detached import all_processes, find_tree

#: For how long the agent's own use is measured, and of a quick run, seconds.
WATCHED_S, QUICK_WATCHED_S = 60.0, 5.0
RUNS, QUICK_RUNS = 5, 1
_WORKER = b"#!/bin/sh\nwhile :; do :; done\n"
_JOB = b"<job_desc><task><application>worker</application></task></job_desc>"


def run(*, quick: bool) -> list[Figure]:
    """Measure starts in turns, then a life of the frozen one."""
    runs, watched_s = (QUICK_RUNS, QUICK_WATCHED_S) if quick else (RUNS, WATCHED_S)
    with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as name:
        home = Path(name)
        say("freezing the agent")
        freeze(home / "host_agent")
        frozen, source = [str(home / "host_agent")], [sys.executable, "-m", "host_agent.main"]
        starts = alternate({"ours": lambda: _start_s(home, frozen), "peer": lambda: _start_s(home, source)}, runs, "s")
        with _at_work(home, frozen) as client:
            share, memory_mb = _use(client, watched_s)
            held_s = [_held_up_s(client) for _ in range(runs)]
            quit_s = _timed(client, lambda: client.want("quit"), lambda: not _agents(client))
        in_guest = guest.run(source, watched_s, runs) + generator.run(source, runs=runs, quick=quick)
    return [
        Figure(name="boinc start to first status", unit="s", ours=starts["ours"], peer=starts["peer"]),
        Figure(name="boinc start, frozen", unit="s", ours=starts["ours"], goal=3.0),
        Figure(name="boinc agent, of a core", unit="%", ours=(share,), goal=1.0),
        Figure(name="boinc agent, memory", unit="MB", ours=(memory_mb,), goal=60.0),
        Figure(name="boinc suspended to standing still", unit="s", ours=tuple(held_s), goal=2.0),
        Figure(name="boinc quit to gone", unit="s", ours=(quit_s,), goal=10.0),
        *in_guest,
    ]


@contextmanager
def _at_work(home: Path, command: list[str]) -> Iterator[FakeClient]:
    with tempfile.TemporaryDirectory(dir=home) as name:
        client = FakeClient(Path(name) / "client", ["worker"])
        client.add("worker", _WORKER)
        client.add("job.xml", _JOB)
        client.start_from(ROOT, command)
        try:
            client.until(lambda: client.said, "it says how it is")
            yield client
        finally:
            client.give_up()


def _start_s(home: Path, command: list[str]) -> float:
    began = time.perf_counter()
    with _at_work(home, command):
        return time.perf_counter() - began


def _use(client: FakeClient, for_s: float) -> tuple[float, float]:
    """Give the share of a core that the agent's processes take, in percent, and their memory, MB."""
    before, began = sum(one.cpu_seconds for one in _agents(client)), time.perf_counter()
    client.until(lambda: time.perf_counter() - began >= for_s, "the time is over", for_s + 60)
    agents = _agents(client)
    share = (sum(one.cpu_seconds for one in agents) - before) / (time.perf_counter() - began)
    return 100 * share, sum(one.resident_bytes for one in agents) / 1e6


def _held_up_s(client: FakeClient) -> float:
    took = _timed(client, lambda: client.want("suspend"), lambda: _states(client) == {"T"})
    _timed(client, lambda: client.want("resume"), lambda: "T" not in _states(client))
    return took


def _timed(client: FakeClient, act: Callable[[], None], is_so: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    client.until(is_so, "it is so")
    return time.perf_counter() - began


def _agents(client: FakeClient) -> list[ProcessStat]:
    """Find the agent's own processes: the one that was started, and its child where it is frozen."""
    pid = client.process.pid if client.process is not None else 0
    others = find_tree(client.slot, None)
    found = [one for one in all_processes() if one.pid not in others and pid in (one.pid, one.parent)]
    return [one for one in found if not one.is_dead]


def _states(client: FakeClient) -> set[str]:
    stats = [read_stat(pid) for pid in find_tree(client.slot, None)]
    return {stat.run_state for stat in stats if stat is not None and not stat.is_dead}
