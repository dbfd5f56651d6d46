"""The benchmark itself, in a network namespace that is its own: figures go to stdout as JSON, progress to stderr."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, open_arena, serving
from benchmarks.figures import Figure
from benchmarks.link import trees
from benchmarks.link.network import NEAR, slow_link
from benchmarks.transfer import make_file
from benchmarks.transfer.chirp_peer import chirp_server, put
from broker.address import read_address, write_address
from broker.peer import ANYBODY
from schemas.endpoints import Endpoint

RUNS, QUICK_RUNS = 5, 1
#: Size of the file, and of a quick run's, MiB.
SIZE_MIB, QUICK_SIZE_MIB = 256, 16


def run(there: list[str], arena: Arena, *, quick: bool) -> list[Figure]:
    """Measure MB/s over the link from ``there``, from the first byte read until the receiver has all of it."""
    source = make_file(arena.directory / "source", QUICK_SIZE_MIB if quick else SIZE_MIB)
    with (
        chirp_server(arena.directory / "chirp", NEAR) as chirp_port,
        _saying_port("benchmarks.link.plain", "receive", NEAR) as plain_port,
        _rsync_server(arena.directory) as rsync_port,
        _saying_port("benchmarks.link.forward", NEAR, str(arena.node.amqp_port)) as amqp_port,
    ):
        vm, store = _over(arena.admit("vm-bench"), amqp_port), arena.admit("adapter-store-bench")
        reached = alternate(
            {
                "ours": partial(_ours, there, arena, vm, store, source),
                "link": partial(_plain, there, arena, plain_port, source),
                "chirp": partial(put, source, chirp_port, NEAR, there),
                "rsync": partial(_rsync, there, rsync_port, source),
            },
            QUICK_RUNS if quick else RUNS,
            "MB/s",
        )
        guest, console = trees.credentials(arena)
        ports = {"chirp": chirp_port, "rsync": rsync_port}
        small = trees.run(there, arena, guest, _over(console, amqp_port), ports, quick=quick)
    ours = reached["ours"]
    return [
        Figure(name="link, beside what it carries", unit="MB/s", ours=ours, peer=reached["link"], goal=0.9),
        Figure(name="link, beside Chirp (no digest)", unit="MB/s", ours=ours, peer=reached["chirp"]),
        Figure(name="link, beside rsync", unit="MB/s", ours=ours, peer=reached["rsync"]),
        *small,
    ]


def _ours(there: list[str], arena: Arena, vm: Path, store: Path, source: Path) -> float:
    received, log = arena.directory / "received", arena.directory / "link-ours.log"
    received.unlink(missing_ok=True)
    role = [sys.executable, "-m", "benchmarks.transfer.ours"]
    with serving([*role, "receive", str(store), str(received)], log):
        seconds = measure([*there, *role, "send", str(vm), str(source)], log)[0]
    return source.stat().st_size / 1e6 / seconds


def _plain(there: list[str], arena: Arena, port: int, source: Path) -> float:
    send = [sys.executable, "-m", "benchmarks.link.plain", "send", NEAR, str(port), str(source)]
    return source.stat().st_size / 1e6 / measure([*there, *send], arena.directory / "link-plain.log")[0]


def _rsync(there: list[str], port: int, source: Path) -> float:
    began = time.perf_counter()
    command = ["rsync", "--whole-file", "--ignore-times", str(source), f"rsync://{NEAR}:{port}/received/"]
    subprocess.run([*there, *command], check=True, stdout=subprocess.DEVNULL)
    return source.stat().st_size / 1e6 / (time.perf_counter() - began)


def _over(credential: Path, port: int) -> Path:
    """Give a file with the same credential for the broker as it is seen over the link."""
    address = msgspec.structs.replace(read_address(credential), endpoints=(Endpoint(NEAR, port),), owner=ANYBODY)
    path = credential.with_suffix(".link.json")
    write_address(path, address)
    return path


@contextmanager
def _saying_port(module: str, *arguments: str) -> Iterator[int]:
    """Run a server of ours that says its port first."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise RuntimeError(f"{module} did not start")
            yield int(line)
        finally:
            process.terminate()


@contextmanager
def _rsync_server(directory: Path) -> Iterator[int]:
    """Run rsync's daemon; its port is free, since nobody else is in this namespace."""
    port, target, config = 8873, directory / "rsync", directory / "rsyncd.conf"
    target.mkdir()
    config.write_text(f"[received]\npath = {target}\nread only = false\nuse chroot = false\nuid = 0\ngid = 0\n")
    command = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--address={NEAR}", f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.link.inside", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run")
    given = parser.parse_args()
    with slow_link() as there, open_arena() as arena:
        figures = run(there, arena, quick=given.quick)
    sys.stdout.write(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
