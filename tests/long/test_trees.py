"""A tree of a thousand small files, a gigabyte and ten gigabytes of hole, both ways, its agent killed five times."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.arena import Arena, open_arena
from benchmarks.tree.ours import SUFFIX, VM
from broker.address import read_address
from broker.connection import Connection
from broker.routes import reply_queue
from broker.transfer import Transfers
from broker.trees import TreeSource
from schemas.files import FileOffer, GuestTree
from tests.unit.trees import disk_of, make_tree, opener, seen
from volcloud.client.trees import TreeProgress, TreePull
from volcloud.client.watched_transfers import WatchedTransfers

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

MIB, LARGE_MIB = 1 << 20, 1024
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Agent:
    """A VM's files in a process of their own, which is killed as the transfer comes by each mark."""

    def __init__(self, credential: Path, directory: Path, size: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.tree.ours", "receive", str(credential), str(directory)]
        self._marks = [int(size * share) for share in SHARES]
        self._process = self._start()
        self.kills = 0

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def on_bytes(self, count: int) -> None:
        if self._marks and count > self._marks[0]:
            self._marks.pop(0)
            self.end()
            self.kills += 1
            self._process = self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def an_agent(credential: Path, directory: Path, size: int) -> Iterator[Agent]:
    agent = Agent(credential, directory, size)
    try:
        yield agent
    finally:
        agent.end()


def large_tree(root: Path) -> Path:
    make_tree(root)
    for number in range(1000):
        (root / f"small-{number}").write_bytes(os.urandom(4096))
    with (root / "large").open("wb") as file:
        for _ in range(LARGE_MIB):
            file.write(os.urandom(MIB))
    return root


def equal(source: Path, target: Path) -> None:
    assert seen(target) == seen(source)
    compare = ["rsync", "-naci", "--delete", "--exclude=/sparse", f"{source}/", f"{target}/"]
    assert subprocess.run(compare, capture_output=True, check=True).stdout == b""
    for root in (source, target):
        assert (root / "sparse").stat().st_blocks * 512 < 2 * MIB
        assert disk_of(root) < (LARGE_MIB + 16) * MIB


async def with_console(arena: Arena, work: Callable[[Transfers], object]) -> None:
    address = read_address(arena.admit("console-tree"))
    async with Connection(address, name="console") as connection:
        transfers = Transfers(connection, my_suffix=SUFFIX)
        bind_to = ("vc.up", f"*.reply.{address.user}-{SUFFIX}")
        await connection.consume(reply_queue(address.user, SUFFIX), transfers.on_delivery, bind_to=bind_to)
        await work(transfers)  # type: ignore[misc]


def test_a_large_tree_goes_both_ways_though_its_agent_is_killed_five_times_each(tmp_path: Path) -> None:
    source = large_tree(tmp_path / "source")
    guest = tmp_path / "guest"
    guest.mkdir()
    tree = TreeSource("source", opener(source))
    size = tree.manifest.size

    async def push(transfers: Transfers) -> None:
        named = GuestTree(path="pushed", manifest=tree.manifest.length)
        offer = FileOffer(file=named, size=size, sha256=tree.sha256)
        with an_agent(credential, guest, size) as agent:
            began = time.monotonic()
            sending = await transfers.send(tree, offer, VM, progress=agent.on_bytes)
            print(f"pushed in {time.monotonic() - began:.1f} s, {sending.sent_bytes / size:.3f} times its size")
        assert agent.kills == len(SHARES)
        assert sending.sent_bytes < 1.2 * size

    async def pull(transfers: Transfers) -> None:
        with an_agent(credential, guest, size) as agent:

            def follow(done: TreeProgress) -> None:
                agent.on_bytes(done.bytes)

            pulled = await TreePull(
                WatchedTransfers(transfers, still_s=120), VM, "pushed", tmp_path / "pulled", follow
            ).run()
        assert agent.kills == len(SHARES)
        assert pulled.sent < 1.2 * size

    with open_arena() as arena:
        credential = arena.admit(VM)
        asyncio.run(with_console(arena, push))
        equal(source, guest / "files" / "pushed")
        asyncio.run(with_console(arena, pull))
        equal(source, tmp_path / "pulled")
    assert list((guest / "partial").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
