"""Content properties that a stranger made up: read without raising, in little time, and named where they are bad."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec

from broker.content import MOST_BYTES, UNREADABLE, read_content
from tests.broker.raw_amqp import Fuzz, long, nested, properties, short, table, timestamp

LATE = 253402300800


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (timestamp(LATE), "a time after the year 9999"),
        (timestamp((1 << 64) - 1), "a time after the year 9999"),
        (nested(2000), "properties, where 4096 are allowed"),
        (nested(9), "tables nested deeper than 8"),
        (nested(9, kind=b"F"), "tables nested deeper than 8"),
        (b"A" + long(b"V" * 300), "more than 256 values"),
        (b"Z", "a field of the unknown type b'Z'"),
        (b"I\0", "cut short"),
        (b"S" + struct.pack(">I", 1 << 30), "cut short"),
    ],
)
def test_what_cannot_be_read_is_named_and_what_is_behind_it_is_read(value: bytes, flaw: str) -> None:
    octets = properties(headers=table(("bad", value)), message_id=short("m"), user_id=short("vm-a"))

    content = read_content(octets)

    assert flaw in content.flaw
    assert (content.properties["message_id"], content.properties["user_id"]) == ("m", "vm-a")


def test_a_bad_value_stands_beside_good_ones() -> None:
    content = read_content(properties(headers=table(("late", timestamp(LATE)), ("good", b"S" + long(b"yes")))))

    assert content.properties["headers"] == {"late": UNREADABLE, "good": "yes"}


def test_a_name_that_is_not_utf8_is_unreadable() -> None:
    content = read_content(properties(message_id=short(b"\xff\xfe"), user_id=short("vm-a")))

    assert content.properties == {"message_id": UNREADABLE, "user_id": "vm-a"}
    assert "not UTF-8" in content.flaw


@given(st.binary(max_size=400))
def test_no_octets_whatever_raise(octets: bytes) -> None:
    read_content(octets)


@given(st.integers(min_value=0))
def test_what_the_library_reads_is_read_alike(seed: int) -> None:
    octets = Fuzz(seed, plain=True).properties("vm-a")
    ours = read_content(octets)
    theirs = spec.BasicProperties().decode(octets)

    assert ours.flaw == ""
    for name, value in ours.properties.items():
        assert _plain(value) == _plain(getattr(theirs, name))


def _plain(value: object) -> object:
    """What the library changes is left out: it cuts off the fraction of a number."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) else value


def test_good_values_of_every_type_are_read() -> None:
    values = {
        "t": b"t\1", "b": b"b\xff", "B": b"B\xff", "U": b"U\xff\xfe", "u": b"u\xff\xfe", "s": b"s\0\5",
        "I": b"I" + struct.pack(">i", -7), "i": b"i" + struct.pack(">I", 7), "l": b"l" + struct.pack(">q", -8),
        "L": b"L" + struct.pack(">q", 8), "f": b"f" + struct.pack(">f", 0.5), "d": b"d" + struct.pack(">d", 0.25),
        "D": b"D\2" + struct.pack(">i", 314), "S": b"S" + long(b"a"), "x": b"x" + long(b"\xff"), "T": timestamp(1),
        "A": b"A" + long(b"VV"), "F": b"F" + table(("k", b"V")), "V": b"V",
    }  # fmt: skip

    content = read_content(properties(headers=table(*values.items())))

    assert content.flaw == ""
    read = {name: str(value) for name, value in content.properties["headers"].items()}
    assert read == {
        "t": "True", "b": "-1", "B": "255", "U": "-2", "u": "65534", "s": "5", "I": "-7", "i": "7", "l": "-8",
        "L": "8", "f": "0.5", "d": "0.25", "D": "3.14", "S": "a", "x": "b'\\xff'",
        "T": str(datetime.fromtimestamp(1, UTC)), "A": "[None, None]", "F": "{'k': None}", "V": "None",
    }  # fmt: skip


def test_the_longest_properties_of_a_frame_cost_no_more_than_the_usual_ones() -> None:
    octets = properties(headers=table(("long", b"A" + long(b"V" * 130_000))), user_id=short("vm-a"))
    began = time.perf_counter()

    for _ in range(100):
        content = read_content(octets)

    assert time.perf_counter() - began < 2.0
    assert str(MOST_BYTES) in content.flaw
    assert content.properties["user_id"] == "vm-a"
