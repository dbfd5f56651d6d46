"""A task in a virtual machine under BOINC: what it costs a volunteer, and how soon it does what his client wants.

The client is the one that is played. The guest's program computes all the time, in 512 MiB, emulated where there is no
KVM.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.alternation import say
from benchmarks.boinc.slot import IMAGE_CACHE, ROOT, with_image
from benchmarks.figures import Figure
from broker.daemon.process_stat import read_stat
from deploy.image.build import Request, build
from host_agent.boinc.fake_client import FakeClient

_JOB = b"""<job_desc><task><virtualmachine>guest</virtualmachine><application>/bin/sh</application>
<command_line>-c 'while :; do :; done'</command_line><memory_size_mb>512</memory_size_mb>
<minimum_checkpoint_interval>8</minimum_checkpoint_interval></task></job_desc>"""
_WRITTEN = re.compile(r"checkpoint-\d+ is written, in ([\d.]+) s")
#: A machine stands still once it has used no time for so long, seconds.
STILL_S = 0.2


def run(command: list[str], watched_s: float, runs: int) -> list[Figure]:
    """Measure one life of a task: computing, checkpoints, held up and let go on, told to end."""
    with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as name:
        home = Path(name)
        say("building the guest's image")
        manifest = build(Request(output=home / "image", cache=IMAGE_CACHE))
        with _at_work(home, manifest, command) as client:
            client.until(lambda: "is given its job" in client.stderr, "the guest has its job", 300)
            share, memory_mb = _use(client, watched_s)
            client.until(lambda: len(_WRITTEN.findall(client.stderr)) >= runs, "checkpoints are written", 300)
            written = tuple(float(one) for one in _WRITTEN.findall(client.stderr)[:runs])
            held = tuple(_held_up_s(client) for _ in range(runs))
            began = time.perf_counter()
            client.want("quit")
            client.end()
            quit_s = time.perf_counter() - began
    return [
        Figure(name="boinc guest: agent, of a core", unit="%", ours=(share,), goal=1.0),
        Figure(name="boinc guest: agent, memory", unit="MB", ours=(memory_mb,), goal=60.0),
        Figure(name="boinc guest: checkpoint of 512 MiB", unit="s", ours=written, goal=1.0),
        Figure(name="boinc guest: suspended to standing still", unit="s", ours=held, goal=2.0),
        Figure(name="boinc guest: quit to gone, saved", unit="s", ours=(quit_s,), goal=10.0),
    ]


@contextmanager
def _at_work(home: Path, manifest: Path, command: list[str]) -> Iterator[FakeClient]:
    client = FakeClient(home / "client", [], ncpus=1)
    with_image(client, manifest)
    client.add("job.xml", _JOB)
    client.start_from(ROOT, command)
    try:
        yield client
    finally:
        client.give_up()


def _use(client: FakeClient, for_s: float) -> tuple[float, float]:
    """Give the share of a core that the agent takes, in percent, and its memory, MB."""
    assert client.process is not None
    before, began = read_stat(client.process.pid), time.perf_counter()
    client.until(lambda: time.perf_counter() - began >= for_s, "the time is over", for_s + 60)
    after = read_stat(client.process.pid)
    if before is None or after is None:
        raise RuntimeError(f"the agent has ended:\n{client.stderr}")
    share = (after.cpu_seconds - before.cpu_seconds) / (time.perf_counter() - began)
    return 100 * share, after.resident_bytes / 1e6


def _held_up_s(client: FakeClient) -> float:
    """Give how long the machine computed on after the client's word."""
    machine = int(client.last("other_pid"))
    began = time.perf_counter()
    client.want("suspend")
    last, since = -1.0, began
    while time.perf_counter() - since < STILL_S:
        stat = read_stat(machine)
        if stat is not None and stat.cpu_seconds != last:
            last, since = stat.cpu_seconds, time.perf_counter()
        time.sleep(0.005)
    client.want("resume")
    client.until(lambda: (stat := read_stat(machine)) is not None and stat.cpu_seconds > last, "it goes on")
    return since - began
