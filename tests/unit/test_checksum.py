"""Sums of chunks are zlib's, whoever makes them: what one end has summed the other compares."""

from __future__ import annotations

import subprocess
import sys
import zlib

from hypothesis import given
from hypothesis import strategies as st

from broker.checksum import crc32
from tests.source import ROOT


@given(st.binary(max_size=4096))
def test_a_sum_is_zlibs(data: bytes) -> None:
    assert crc32(data) == zlib.crc32(data)


def test_a_machine_without_the_fast_one_makes_the_same() -> None:
    script = "import sys; sys.modules['isal'] = None; from broker.checksum import crc32; print(crc32(b'test'))"
    made = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)

    assert int(made.stdout) == zlib.crc32(b"test")
