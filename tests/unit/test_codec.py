"""The codec: golden bytes of every released version, a second implementation, hostile bytes."""

from __future__ import annotations

import time
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import WAYS
from schemas.codec import MESSAGES, MOST_IN_BUNDLE, bundle, decode, encode, op_of, unbundle
from schemas.envelope import MAX_BODY_BYTES, Message, Ping
from schemas.errors import DecodeError
from schemas.examples import example, examples
from schemas.execs import ExecOutput, Stream
from schemas.publish import documents
from schemas.vms import Vms, VmState

GOLDEN = Path(__file__).parent / "golden"
RELEASED = sorted(GOLDEN.glob("v*/*.msgpack"))


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_golden_message_of_every_released_version_still_decodes(path: Path) -> None:
    message = decode(path.read_bytes())

    assert op_of(message) == path.stem


@pytest.mark.parametrize("op", sorted(MESSAGES))
def test_the_newest_golden_bytes_are_what_the_codec_writes(op: str) -> None:
    assert encode(example(op)) == (GOLDEN / "v1" / f"{op}.msgpack").read_bytes()


@pytest.mark.parametrize("op", sorted(MESSAGES))
def test_a_second_implementation_reads_the_same_message(op: str) -> None:
    fields = msgpack.unpackb(encode(example(op)))

    assert fields["op"] == op
    assert decode(msgpack.packb(fields)) == example(op)


def test_every_message_has_a_way_and_an_example() -> None:
    assert set(WAYS) == set(MESSAGES) == set(examples())


@pytest.mark.parametrize("name", sorted(documents()))
def test_a_generated_document_is_the_committed_one(name: str) -> None:
    committed = Path(__file__).parents[2] / "schemas" / name

    assert documents()[name] == committed.read_text(), "run `python -m schemas.publish` and commit what it wrote"


def test_a_state_of_a_newer_host_is_unknown_to_an_older_reader() -> None:
    of_today = example("reply.vms")
    assert isinstance(of_today, Vms)
    of_tomorrow = encode(of_today).replace(b"\xa7running", b"\xa7hovered")

    read = decode(of_tomorrow)

    assert isinstance(read, Vms)
    assert [status.state for status in read.vms] == [VmState.UNKNOWN]


def test_an_unknown_field_of_a_newer_peer_is_ignored() -> None:
    fields = msgpack.unpackb(encode(example("agent.ping")))

    message = decode(msgpack.packb({**fields, "colour": "red"}))

    assert message == example("agent.ping")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"not msgpack at all", "not a message"),
        (b"\xc1", "malformed"),
        (b"\x91" * 10_000 + b"\xc0", "Expected `object`"),
        (msgpack.packb({"op": "vm.fly", "vm": "vm-1"}), "vm.fly"),
        (msgpack.packb({"op": "vm.start", "vm": 7}), "vm: must be a text"),
        (msgpack.packb({"op": "vm.start"}), "vm"),
        (b"\x00" * (MAX_BODY_BYTES + 1), "limit"),
    ],
    ids=["empty", "text", "bad opcode", "nested", "unknown op", "wrong type", "missing field", "too long"],
)
def test_bad_bytes_give_an_error_that_says_why(body: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said.replace("$", r"\$")):
        decode(body)


def test_ten_thousand_maps_in_each_other_are_refused_in_no_time() -> None:
    bomb = msgpack.packb({"op": "job.submit"})[:-1] + b"\x81\xa1x" * 10_000 + b"\xc0"
    began = time.monotonic()

    with pytest.raises(DecodeError):
        decode(b"\x82\xa2op\xaajob.submit\xa3job" + b"\x81\xa1x" * 10_000 + b"\xc0")
    with pytest.raises(DecodeError):
        decode(bomb)

    assert time.monotonic() - began < 1.0


@given(st.binary(max_size=300))
def test_random_bytes_give_a_message_or_our_error(body: bytes) -> None:
    _decodes_or_refuses(body)


@settings(max_examples=300)
@given(st.sampled_from(sorted(MESSAGES)), st.integers(0, 10_000), st.integers(0, 255))
def test_a_golden_message_with_a_byte_changed_gives_a_message_or_our_error(op: str, place: int, byte: int) -> None:
    body = bytearray(encode(example(op)))
    body[place % len(body)] = byte

    _decodes_or_refuses(bytes(body))


def test_a_bundle_is_an_array_of_messages_to_any_msgpack_library() -> None:
    bodies = [encode(example(op)) for op in ("agent.ping", "job.request", "job.completion")]

    assert msgpack.unpackb(bundle(bodies)) == [msgpack.unpackb(body) for body in bodies]
    theirs = unbundle(msgpack.packb([msgpack.unpackb(body) for body in bodies]))
    assert [decode(body) for body in theirs] == [decode(body) for body in bodies]
    assert unbundle(bundle(bodies)) == bodies


def test_a_message_alone_is_no_bundle() -> None:
    body = encode(example("agent.ping"))

    assert (bundle([body]), unbundle(body)) == (body, [body])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\xdc\x00",
        bundle([encode(Ping())] * 2)[:-1],
        bundle([encode(Ping())] * 2) + b"\x00",
        b"\xdc" + (MOST_IN_BUNDLE + 1).to_bytes(2, "big") + b"\x80" * (MOST_IN_BUNDLE + 1),
        b"\xdc\x00\x01" + b"\x91" * 10_000,
        b"\x91\xc4" + b"\xff" + b"x",
        b"\x91" * (MAX_BODY_BYTES + 1),
    ],
    ids=["empty", "of none", "head", "cut", "more", "too many", "nested", "short", "long"],
)
def test_what_is_no_bundle_stays_whole_and_is_refused_as_a_message(body: bytes) -> None:
    assert unbundle(body) == [body]
    with pytest.raises(DecodeError):
        decode(body)


def test_a_bundle_in_a_bundle_is_no_message() -> None:
    inner = bundle([encode(Ping())] * 2)

    assert unbundle(bundle([inner, inner])) == [inner, inner]
    with pytest.raises(DecodeError, match="not a message"):
        decode(inner)


@given(st.binary(max_size=200))
def test_random_bytes_never_break_the_unbundling(body: bytes) -> None:
    parts = unbundle(body)

    assert parts == [body] or bundle(parts).endswith(b"".join(parts))


def test_a_message_over_the_limit_is_not_even_sent() -> None:
    with pytest.raises(DecodeError, match="limit"):
        encode(ExecOutput(call="c", number=0, stream=Stream.STDOUT, data=b"x" * MAX_BODY_BYTES))


def _decodes_or_refuses(body: bytes) -> None:
    try:
        outcome: object = decode(body)
    except DecodeError as error:
        outcome = error.reason
    assert isinstance(outcome, Message | str)
