"""Where seeds come from in a guest, and which bytes on the port are one."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.seed import SeedSource
from guest_agent.seed_port import LINE_LIMIT_BYTES, PORT_NAME, SeedLines, find_port
from host_agent.hypervisors.qemu.command import SEED_FILE_BYTES, SEED_PORT, encode_seed


def source_of(tmp_path: Path) -> SeedSource:
    return SeedSource(None, fw_cfg=tmp_path / "raw", ports=tmp_path / "ports")


async def test_a_named_file_is_the_seed(tmp_path):
    (tmp_path / "seed").write_bytes(b"\x81")

    assert await SeedSource(tmp_path / "seed").read() == b"\x81"


async def test_without_any_medium_the_error_says_where_it_looked(tmp_path):
    with pytest.raises(OSError, match="raw is missing"):
        await source_of(tmp_path).read()


async def test_fw_cfg_holds_the_seed_as_the_host_wrote_it(tmp_path):
    (tmp_path / "raw").write_bytes(encode_seed(b"\x00\xffseed"))

    assert await source_of(tmp_path).read() == b"\x00\xffseed"


async def test_fw_cfg_with_something_else_is_an_error(tmp_path):
    (tmp_path / "raw").write_bytes(b"\0" * 100)

    with pytest.raises(OSError, match="holds something else"):
        await source_of(tmp_path).read()


async def test_a_file_that_is_replaced_is_seen_and_only_changes_are(tmp_path):
    file = tmp_path / "seed"
    file.write_bytes(b"one")
    watch = SeedSource(file).watch()

    first = await anext(watch)
    file.write_bytes(b"one")
    file.with_suffix(".new").write_bytes(b"two")
    file.with_suffix(".new").rename(file)
    second = await asyncio.wait_for(anext(watch), 10)

    assert (first, second) == (b"one", b"two")


async def test_a_newer_seed_is_asked_for_by_reading_again(tmp_path):
    source = SeedSource(tmp_path / "seed")
    (tmp_path / "seed").write_bytes(b"one")
    await source.read()
    (tmp_path / "seed").write_bytes(b"two")

    assert await source.ask_newer() == b"two"


def test_the_port_is_found_by_its_name(tmp_path):
    for number, name in (("vport0p1", "org.qemu.guest_agent.0"), ("vport0p2", PORT_NAME)):
        (tmp_path / number).mkdir()
        (tmp_path / number / "name").write_text(f"{name}\n")

    assert find_port(tmp_path) == Path("/dev/vport0p2")
    assert find_port(tmp_path / "nowhere") is None


def test_host_and_guest_agree_on_name_and_size():
    assert (SEED_PORT, SEED_FILE_BYTES) == (PORT_NAME, LINE_LIMIT_BYTES)


@given(st.lists(st.binary(min_size=1, max_size=400), max_size=4), st.integers(1, 700))
def test_seeds_arrive_however_the_port_cuts_them(seeds, size):
    stream = b"".join(encode_seed(seed) for seed in seeds)
    lines = SeedLines()

    pieces = (stream[start : start + size] for start in range(0, len(stream), size))

    assert [seed for piece in pieces for seed in lines.feed(piece)] == seeds


@pytest.mark.parametrize("noise", [b"hello\n", b"\xff\xfe\n", b"====\n", b"\n\n", b"x" * LINE_LIMIT_BYTES * 3 + b"\n"])
def test_noise_is_dropped_and_what_follows_is_heard(noise):
    lines = SeedLines()

    heard = [*lines.feed(noise), *lines.feed(base64.b64encode(b"seed") + b"\n")]

    assert heard[-1:] == [b"seed"]
    assert len(heard) <= 2
