"""Our standard input on its way to commands in VMs: to each of several all of it, and none holds up the others."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from broker.rpc.input import BytesSource, InputSource
from volcloud.standard_input import SharedInput, StandardInput, is_given


async def all_of(source: InputSource, most: int = 1000) -> bytes:
    found = b""
    while piece := await source.read(most):
        assert len(piece) <= most
        found += piece
    source.close()
    return found


async def test_a_pipe_is_read_as_it_fills_and_to_its_end() -> None:
    read, write = os.pipe()
    source = StandardInput(read)
    first = asyncio.ensure_future(source.read(10))
    await asyncio.sleep(0)
    assert not first.done()
    os.write(write, b"some")
    assert await first == b"some"
    os.write(write, b"more")
    os.close(write)

    assert await all_of(source) == b"more"
    os.close(read)


@pytest.mark.parametrize("content", [b"", b"x" * 5000])
async def test_a_file_and_dev_null_have_an_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in" if content else Path(os.devnull)
    if content:
        path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert await all_of(StandardInput(descriptor)) == content
    finally:
        os.close(descriptor)


async def test_each_of_several_gets_all_of_it(tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    shared = SharedInput(BytesSource(data))
    readers = [shared.reader() for _ in range(3)]

    async with asyncio.timeout(30):
        found = await asyncio.gather(all_of(readers[0]), all_of(readers[1], 70_000), all_of(readers[2], 64))

    assert found == [data] * 3


async def test_who_stops_or_never_begins_holds_up_nobody() -> None:
    data = os.urandom(1_000_000)
    shared = SharedInput(BytesSource(data))
    reader, stops, never = (shared.reader() for _ in range(3))
    reading = asyncio.ensure_future(all_of(reader))
    async with asyncio.timeout(30):
        await stops.read(10)
        stops.close()
        never.close()

        assert await reading == data


def test_a_terminal_and_what_is_closed_are_not_given() -> None:
    master, slave = os.openpty()
    read, write = os.pipe()
    assert (is_given(slave), is_given(read)) == (False, True)
    for descriptor in (master, slave, read, write):
        os.close(descriptor)

    assert not is_given(read)
