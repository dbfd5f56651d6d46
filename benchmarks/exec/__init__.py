"""Commands in a VM, one at a time, beside the road and a process alone; and how soon an agent answers that is busy.

On the driver ``process``, so that no emulation is in the figures. The peer is what any such command needs: a ping-pong
of bare pika's on the system's own broker, and one ``posix_spawn`` of the same program.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.exec.busy import Pushing
from benchmarks.figures import Figure, percentile
from benchmarks.jobs import peer_credential
from benchmarks.jobs.ours import system
from volcloud import Client

VM = "worker-1"
#: Commands of one run, and pings; and of a quick one.
CALLS, QUICK_CALLS = 200, 50
#: Of the file that is pushed over and over while an agent is pinged, bytes.
FILE_BYTES = 256 << 20
#: How long an agent may take to be ready, seconds.
_PATIENCE_S = 120.0


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure commands, then pings without and with a file on its way to the same guest."""
    calls = QUICK_CALLS if quick else CALLS
    commands: list[float] = []
    pings: list[float] = []
    with system(arena.directory / "exec-system", vms=1) as data, Client.connect(data) as client:
        _wait_ready(client)
        ours = partial(_commands_ms, client, calls, commands)
        peer = partial(_peer_ms, arena, peer_credential(data), calls)
        reached = alternate({"ours": ours, "peer": peer}, runs, "ms")
        idle = partial(_pings_ms, client, calls, [])
        busy = partial(_busy_pings_ms, client, arena.directory, data, calls, pings)
        pinged = alternate({"busy": busy, "idle": idle}, runs, "ms")
    return [
        Figure(name="exec true, median", unit="ms", ours=reached["ours"], peer=reached["peer"], most=3.0),
        Figure(name="exec true, p99", unit="ms", ours=(percentile(commands, 0.99),), goal=50.0),
        Figure(name="ping beside a push, beside idle", unit="ms", ours=pinged["busy"], peer=pinged["idle"]),
        Figure(name="ping beside a push, p99", unit="ms", ours=(percentile(pings, 0.99),), goal=50.0),
    ]


def _wait_ready(client: Client) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not client.vms.get(VM).agent_ready:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the agent of {VM} is not ready in {_PATIENCE_S:.0f} s")
        time.sleep(0.05)


def _commands_ms(client: Client, calls: int, all_of_them: list[float]) -> float:
    """Give the median time of a command; the first are warm-up."""
    for _ in range(calls // 10):
        _command_ms(client)
    times = [_command_ms(client) for _ in range(calls)]
    all_of_them += times
    return percentile(times, 0.5)


def _command_ms(client: Client) -> float:
    began = time.perf_counter()
    ended = client.execs.run(VM, ["true"])
    if ended.exit_status != 0:
        raise RuntimeError(f"true ended with {ended.exit_status}")
    return (time.perf_counter() - began) * 1000


def _peer_ms(arena: Arena, credential: Path, calls: int) -> float:
    """Give the median of a ping-pong, and that of a process, in sum."""
    serve = [sys.executable, "-m", "benchmarks.rpc.pika_peer", "serve", str(credential), "-"]
    ask = [sys.executable, "-m", "benchmarks.exec.pika_peer", str(credential), str(calls)]
    log = arena.directory / "exec-pika.log"
    with serving(serve, log):
        return sum(measure(ask, log))


def _busy_pings_ms(client: Client, scratch: Path, data: Path, calls: int, all_of_them: list[float]) -> float:
    with Pushing(scratch, data, VM, FILE_BYTES) as pushing:
        median_ms = _pings_ms(client, calls, all_of_them)
        pushing.check()
    return median_ms


def _pings_ms(client: Client, calls: int, all_of_them: list[float]) -> float:
    times = [client.agents.ping(VM, timeout_s=30) * 1000 for _ in range(calls)]
    all_of_them += times
    return percentile(times, 0.5)
