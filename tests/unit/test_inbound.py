"""The doors: whose word a message is, what a seal is worth, and that nothing goes past them."""

from __future__ import annotations

import ast
import hmac
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from broker.delivery import Delivery, Properties, Settlement
from broker.inbound import Letter, Refusal, Verify, recall, recall_all, take_in
from broker.outbound import body_of
from broker.routes import CALLS, DOWN, UP
from schemas.codec import bundle, encode, unbundle
from schemas.envelope import MAX_BODY_BYTES, Message, Ping
from schemas.errors import DecodeError
from schemas.ids import Kind
from schemas.signed import Signed
from tests.source import MODULES, ROOT, lines_where

PING = Ping(id="a-ping", target="vm-a", deadline_ms=1764000000000)
KEY = b"a toy"


def came(exchange: str, key: str, user_id: str, body: bytes, flaw: str = "") -> Delivery:
    method = SimpleNamespace(exchange=exchange, routing_key=key, redelivered=False)
    delivery = Delivery(Settlement(lambda _: None, 1), method, user_id, Properties(), body, body)
    delivery.flaw = flaw
    return delivery


def toy_seal(message: Message, body: bytes) -> Signed:
    return Signed(id=message.id, body=body, signer="centre", algorithm="toy", seal=hmac.digest(KEY, body, "sha256"))


def toy_check(signed: Signed, _sender: str) -> str:
    return "" if hmac.compare_digest(signed.seal, hmac.digest(KEY, signed.body, "sha256")) else "the seal is broken"


@pytest.mark.parametrize(
    ("exchange", "key", "user_id", "kind"),
    [
        (UP, "vm-a.beat", "vm-a", Kind.VM),
        (CALLS, "console-a.call", "console-a", Kind.CONSOLE),
        (DOWN, "vm.a", "adapter-job-1", Kind.ADAPTER),
        ("", "amq.rabbitmq.reply-to.x", "keys", Kind.KEYS),
    ],
)
def test_a_sender_is_whom_the_broker_vouches_for(exchange: str, key: str, user_id: str, kind: Kind) -> None:
    assert take_in(came(exchange, key, user_id, encode(PING))) == Letter(sender=user_id, kind=kind, message=PING)


@pytest.mark.parametrize(
    ("exchange", "key", "user_id", "detail"),
    [
        (UP, "vm-a.beat", "vm-b", "user_id is not the first word of the routing key"),
        (UP, "vm-a.beat", "", "user_id is not the first word of the routing key"),
        (CALLS, "console-a.call", "vm-a", "user_id is not the first word of the routing key"),
        (DOWN, "vm.a", "", "it has no user_id"),
        (DOWN, "vm.a", "administrator", "user_id = 'administrator' is no principal"),
    ],
)
def test_whom_the_broker_does_not_vouch_for_is_nobody(exchange: str, key: str, user_id: str, detail: str) -> None:
    assert take_in(came(exchange, key, user_id, encode(PING))) == Refusal(reason="foreign_key", detail=detail)


@pytest.mark.parametrize(
    ("body", "flaw", "detail"),
    [
        (b"\xc1", "", "not a message"),
        (b"x" * (MAX_BODY_BYTES + 1), "", "bytes are over the limit"),
        (encode(PING), "properties: too deep", "properties: too deep"),
        (bundle([encode(PING), encode(PING)]), "", "not a message"),
    ],
    ids=["garbage", "long", "flaw", "bundle"],
)
def test_what_cannot_be_read_is_refused_in_its_senders_name(body: bytes, flaw: str, detail: str) -> None:
    refusal = take_in(came(UP, "vm-a.beat", "vm-a", body, flaw))

    assert isinstance(refusal, Refusal)
    assert (refusal.sender, refusal.reason, detail in refusal.detail) == ("vm-a", "undecodable", True)


def test_a_sealed_message_goes_through_bundles_and_journals_and_is_what_was_sealed() -> None:
    body = body_of(PING, toy_seal)

    parts = unbundle(bundle([body, body]))

    assert [recall(part, "adapter-job-1", toy_check) for part in parts] == [PING, PING]
    assert take_in(came(DOWN, "vm.a", "adapter-job-1", parts[0]), toy_check) == Letter(
        sender="adapter-job-1", kind=Kind.ADAPTER, message=PING
    )


def test_one_byte_changed_breaks_the_seal() -> None:
    signed = toy_seal(PING, encode(PING))
    forged = replace(signed, body=signed.body[:-1] + b"\xff")

    refusal = take_in(came(DOWN, "vm.a", "adapter-job-1", encode(forged)), toy_check)

    assert refusal == Refusal(sender="adapter-job-1", reason="undecodable", detail="the seal is broken")


def anything(_signed: Signed, _sender: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("inner", "verify", "detail"),
    [
        (encode(PING), None, "sealed by 'centre' with 'toy': no such seal is known here"),
        (b"\xc1", anything, "not a message"),
        (encode(toy_seal(PING, encode(PING))), anything, "sealed twice"),
    ],
    ids=["unknown", "no message", "twice"],
)
def test_a_seal_that_nobody_knows_or_that_holds_no_message_is_refused(
    inner: bytes, verify: Verify | None, detail: str
) -> None:
    body = encode(toy_seal(PING, inner))

    with pytest.raises(DecodeError, match=detail):
        recall(body, "vm-a", *([verify] if verify else []))


def test_what_holds_a_bundle_is_read_whole_or_not_at_all() -> None:
    assert recall_all(bundle([encode(PING), encode(PING)])) == [PING, PING]
    with pytest.raises(DecodeError):
        recall_all(bundle([encode(PING), b"\x80"]))


def test_the_seal_counts_towards_the_longest_message() -> None:
    with pytest.raises(DecodeError, match="over the limit"):
        body_of(PING, lambda message, body: toy_seal(message, body + b"x" * MAX_BODY_BYTES))


#: Who may turn bytes into messages, and messages into bytes.
DOORS = {"broker/inbound.py", "broker/outbound.py"}


def test_nothing_goes_past_the_doors() -> None:
    others = [path for path in MODULES if path.parent != ROOT / "schemas" and str(path.relative_to(ROOT)) not in DOORS]

    assert lines_where(others, makes_messages) == []


def makes_messages(node: ast.AST) -> bool:
    """Say whether this brings in what turns bytes into messages, or messages into bytes."""
    return (
        isinstance(node, ast.ImportFrom)
        and node.module == "schemas.codec"
        and not {"decode", "encode", "unbundle"}.isdisjoint(alias.name for alias in node.names)
    )
