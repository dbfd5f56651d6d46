"""XML-RPC as bytes: calls that clients make are read as they are, and hostile ones end as a fault and nothing else."""

from __future__ import annotations

from typing import Any
from xmlrpc.client import Fault, dumps, loads

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volcloud.xmlrpc.faults import FaultCode, fault, fault_of
from volcloud.xmlrpc.marshal import MOST_DEPTH, read_call, text_or_bytes, write_answer, write_fault

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(lambda text: "￾" not in text)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), inner),
    max_leaves=8,
)
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<methodCall><methodName>help</methodName><params><param><value>&b;</value></param></params></methodCall>"
)
FILE = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    b"<methodCall><methodName>help</methodName><params><param><value>&f;</value></param></params></methodCall>"
)


def call(inner: bytes, name: bytes = b"ping") -> bytes:
    return b"<methodCall><methodName>%b</methodName><params>%b</params></methodCall>" % (name, inner)


def refused(body: bytes) -> int:
    with pytest.raises(Fault) as error:
        read_call(body)
    return error.value.faultCode


@settings(max_examples=25)
@given(st.lists(VALUES, max_size=4))
def test_what_a_client_sends_is_what_is_read(arguments: list[Any]) -> None:
    body = dumps(tuple(arguments), "runCmd", allow_none=True).encode()

    assert read_call(body) == ("runCmd", arguments)


@settings(max_examples=25)
@given(VALUES)
def test_what_is_written_is_what_a_client_reads(value: Any) -> None:
    assert loads(write_answer(value), use_builtin_types=True)[0] == (value,)


@pytest.mark.parametrize("body", [BOMB, FILE, b"<!DOCTYPE methodCall><methodCall/>"], ids=["bomb", "file", "bare"])
def test_a_document_type_is_refused(body: bytes) -> None:
    assert refused(body) == FaultCode.BAD_XML


def test_nesting_has_an_end() -> None:
    deep = b"<value><array><data>" * MOST_DEPTH

    assert refused(call(b"<param>" + deep)) == FaultCode.BAD_XML


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", b"<", b"not xml", b"<a></b>", b"<methodCall>&undefined;</methodCall>", b"\xff\xfe<", b"<a/><b/>"],
)
def test_what_is_no_xml_is_told_so(body: bytes) -> None:
    assert refused(body) == FaultCode.BAD_XML


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        b"<methodCall/>",
        b"<methodCall><methodName></methodName></methodCall>",
        call(b"", b"x" * 65),
        call(b"<param><value><int>x</int></value></param>"),
        call(b"<param><value><int>" + b"9" * 5000 + b"</int></value></param>"),
        call(b"<param><value><boolean>2</boolean></value></param>"),
        call(b"<param><value><base64>\xc3\xa9</base64></value></param>"),
        call(b"<param><value><dateTime.iso8601>x</dateTime.iso8601></value></param>"),
        call(b"<param><value><bigdecimal>x</bigdecimal></value></param>"),
        call(b"<param><value><evil/></value></param>"),
        call(b"<param><struct><value><array></array></value><value>1</value></struct></param>"),
        call(b"<param><struct><value>1</value></struct></param>"),
        b"<methodCall><fault><value><int>1</int></value></fault></methodCall>",
        b"<methodResponse><params/></methodResponse>",
    ],
)
def test_xml_that_is_no_call_is_told_so(body: bytes) -> None:
    assert refused(body) in (FaultCode.BAD_REQUEST, FaultCode.BAD_XML)


TAGS = ["methodCall", "methodName", "params", "param", "value", "array", "struct", "name", "int", "nil", "fault"]
PIECES = st.sampled_from([*(f"<{tag}>" for tag in TAGS), *(f"</{tag}>" for tag in TAGS), "1", "x"])


@given(st.lists(PIECES, max_size=30).map("".join) | st.binary(max_size=60))
def test_whatever_comes_is_a_call_or_a_fault(body: str | bytes) -> None:
    data = body if isinstance(body, bytes) else f"<r>{body}</r>".encode()
    try:
        read_call(data)
    except Fault as error:
        assert error.faultCode in (FaultCode.BAD_REQUEST, FaultCode.BAD_XML)  # noqa: PT017  either end is right


@given(st.text())
def test_an_answer_is_xml_whatever_is_in_it(text: str) -> None:
    (read,) = loads(write_answer(text))[0]

    assert isinstance(read, str)


def test_line_ends_come_as_they_are() -> None:
    assert loads(write_answer("a\r\nb\rc\n"))[0] == ("a\r\nb\rc\n",)


def test_output_that_is_no_text_comes_as_bytes() -> None:
    assert text_or_bytes("grüße\n".encode()) == "grüße\n"
    assert text_or_bytes(b"\xff\x00") == b"\xff\x00"
    assert text_or_bytes(b"\x1b[31m") == b"\x1b[31m"


def test_whole_numbers_beyond_32_bits_are_doubles() -> None:
    assert loads(write_answer([2**40, -(2**31)]))[0] == ([2.0**40, -(2**31)],)


def test_a_fault_says_one_line_and_no_secret() -> None:
    told = fault(FaultCode.NOT_DONE, "amqp://a:geheim@host\nsaid \x1b[31m no", "ask\x00 again")

    with pytest.raises(Fault) as error:
        loads(write_fault(told))

    assert error.value.faultString == "amqp://a:***@host\\nsaid \\x1b[31m no; ask\\x00 again"


def test_a_fault_does_not_send_back_what_came_at_length() -> None:
    told = fault(FaultCode.NOT_DONE, "x" * 10**6, "make it shorter").faultString

    assert len(told) < 3000
    assert told.endswith("x…; make it shorter")


def test_an_error_that_nobody_foresaw_is_a_fault_of_ours(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    told = fault_of(ZeroDivisionError("no"))

    assert told.faultCode == FaultCode.INTERNAL
    assert "a fault of volcloud itself" in told.faultString
