"""Much over the local road: 100 MB of a command's output and a file of 256 MB, whole, and within bounds of memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from broker.address import Address
from broker.delivery import Delivery
from broker.inbound import Letter, take_in
from broker.routes import queue_of
from broker.rpc.execution import Execution
from broker.transfer import Transfers, into_file
from broker.transfer.sending import digest_file
from guest_agent.execs import Execs
from guest_agent.files import ConsoleFiles
from schemas.endpoints import Endpoint
from schemas.execs import ExecRun, Stream
from schemas.files import FileGet, FileOffer, GuestFile
from tests.broker.carriers import ends_on
from tests.broker.test_carriers import calling, serving

pytestmark = pytest.mark.timeout(600)
OUTPUT_BYTES, FILE_BYTES, PIECE_BYTES = 100_000_000, 256 << 20, 1 << 20
#: Of both ends together, which are one process here.
MOST_HELD = 120 << 20


def login(user: str) -> Address:
    return Address(endpoints=(Endpoint("127.0.0.1", 9),), user=user, password="x", vhost="/")


async def test_a_hundred_megabytes_of_output(tmp_path: Path) -> None:
    came = hashlib.sha256()
    count = 0

    async def take(stream: Stream, data: bytes) -> None:
        nonlocal count
        count += len(data)
        came.update(data)

    script = f"import sys; [sys.stdout.buffer.write(bytes([n % 251]) * 1000) for n in range({OUTPUT_BYTES // 1000})]"
    expected = hashlib.sha256()
    for number in range(OUTPUT_BYTES // 1000):
        expected.update(bytes([number % 251]) * 1000)
    tracemalloc.start()
    async with ends_on("road", login("console-a"), login("vm-a"), tmp_path) as ends:
        async with serving(ends, tmp_path, Execs(tmp_path / "files").handlers()):
            caller = await calling(ends)
            command = ExecRun(command=["python3", "-c", script])
            ended = await Execution(ends.near, caller, ends.far.user, command, take).run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (ended.exit_status, count, came.digest()) == (0, OUTPUT_BYTES, expected.digest())
    assert peak < MOST_HELD


async def test_a_file_of_256_megabytes_both_ways(tmp_path: Path) -> None:
    source, back, area = tmp_path / "source", tmp_path / "back", tmp_path / "area"
    area.mkdir()
    with source.open("wb") as file:
        for _ in range(FILE_BYTES // PIECE_BYTES):
            file.write(os.urandom(PIECE_BYTES))
    async with ends_on("road", login("console-a"), login("vm-a"), tmp_path) as ends:
        far, caller = Transfers(ends.far), await calling(ends)
        files = ConsoleFiles(far, area, tmp_path / "partial")

        def on_file(delivery: Delivery) -> None:
            letter = take_in(delivery)
            delivery.ack()
            assert isinstance(letter, Letter)
            opening = letter.message
            if not (isinstance(opening, FileOffer | FileGet) and files.on_opening(letter.sender, opening)):
                far.on_message(letter.sender, letter.message)

        await ends.far.consume(f"{queue_of(ends.far.user)}.files", on_file, prefetch=64)
        near = Transfers(ends.near, my_suffix=caller.suffix)
        caller.on_other = near.on_message
        size, sha256 = await asyncio.to_thread(digest_file, source)
        offer = FileOffer(file=GuestFile(path="f"), size=size, sha256=sha256)
        tracemalloc.start()
        await near.send_file(source, offer, ends.far.user)
        await near.fetch_file(FileGet(file=GuestFile(path="f")), into_file(back, tmp_path / "part"), ends.far.user)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await files.close()

    assert digest_file(area / "f") == digest_file(back) == (size, sha256)
    assert peak < MOST_HELD
