"""A VM's life beside the same QEMU by hand: boot until its agent is there, memory saved, memory loaded.

A guest of 256 MiB. By hand: the command line of our VM, its image and kernel, a copy of its disk as our VM left it, and
the QMP commands of our driver in a script without a broker, a registry or a journal. Both boot a disk that was powered
off hard. Ours is ready when the centre's registry says so, the other when the broker has let the guest in.
"""

from __future__ import annotations

from benchmarks.alternation import say
from benchmarks.arena import Arena
from benchmarks.figures import Figure
from benchmarks.jobs.ours import system
from benchmarks.vm.by_hand import live_by_hand
from benchmarks.vm.ours import Life, disk_of, live, put_down, wait_ready
from volcloud import Client

MEMORY_MIB = 256


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure a life of each, in turns; a quick one has the same steps."""
    ours: list[Life] = []
    peers: list[Life] = []
    with system(arena.directory / "vm-system", hypervisor="qemu", vms=1, memory_mib=MEMORY_MIB) as data:
        with Client.connect(data) as client:
            wait_ready(client)
            for number in range(1, runs + 1):
                put_down(client)
                ours.append(live(client))
                put_down(client)
                peers.append(live_by_hand(disk_of(client, data), arena.directory / f"by-hand-{number}", data))
                say(f"run {number} of {runs}: ours {ours[-1]}, by hand {peers[-1]}")
    return [
        _figure("vm start to agent ready", "start_s", ours, peers, margin=0.5),
        _figure("vm savestate", "savestate_s", ours, peers, most=1.3),
        _figure("vm start from saved", "restore_s", ours, peers, most=1.3),
    ]


def _figure(name: str, field: str, ours: list[Life], peers: list[Life], **goal: float) -> Figure:
    reached = [tuple(getattr(one, field) for one in lives) for lives in (ours, peers)]
    return Figure(name=name, unit="s", ours=reached[0], peer=reached[1], **goal)
