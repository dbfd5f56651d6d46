"""The ledger's outbox keeps messages until the broker has confirmed them."""

from __future__ import annotations

import msgspec

from adapters.ledger import outbox
from adapters.ledger.transaction import OutboxRow
from broker.routes import down
from schemas.codec import BUNDLE_BYTES, MOST_IN_BUNDLE, decode, unbundle
from schemas.ids import uuid7
from schemas.jobs import JobStop
from tests.contract.ledger_fixtures import Desk, cluster, desk, url

__all__ = ["cluster", "desk", "url"]

STOP = JobStop(target="vm-1", job="site-a/one.1", attempt=1, reason="cancelled")


def put(desk: Desk, message: JobStop) -> list[OutboxRow]:
    def work(tx: outbox.Tx) -> list[OutboxRow]:
        outbox.put(tx, down("vm-1"), message)
        return outbox.fresh(tx)

    return desk.ledger.write(work)


def stale(desk: Desk, limit: int = 10) -> list[str]:
    return [row.message_id for row in desk.ledger.write(lambda tx: outbox.stale(tx, 10_000, limit))]


def stops(count: int) -> list[JobStop]:
    return [
        JobStop(id=f"{number:04}", target="vm-1", job="site-a/one.1", attempt=1, reason="") for number in range(count)
    ]


def test_a_fresh_message_is_ready_for_the_wire(desk: Desk) -> None:
    (row,) = put(desk, STOP)

    assert (row.message_id, row.exchange, row.routing_key) == (STOP.id, "vc.down", "vm.1")
    assert decode(row.body) == STOP


def test_a_message_that_is_ticked_off_is_gone(desk: Desk) -> None:
    (row,) = put(desk, STOP)

    desk.ledger.write(lambda tx: outbox.tick(tx, [row.message_id, "unknown"]))

    assert desk.ledger.read(outbox.depth) == 0


def test_a_message_is_stale_only_after_its_time(desk: Desk) -> None:
    put(desk, STOP)
    early = stale(desk)
    desk.pass_s(11)

    assert (early, stale(desk)) == ([], [STOP.id])


def test_stale_messages_come_oldest_first_and_within_the_limit(desk: Desk) -> None:
    for message in stops(5):
        put(desk, message)
    desk.pass_s(11)

    assert [stale(desk, 3), stale(desk, 3)] == [["0000", "0001", "0002"], ["0003", "0004"]]


def test_what_one_adapter_has_claimed_another_does_not_get(desk: Desk) -> None:
    put(desk, STOP)
    desk.pass_s(11)

    first, second = stale(desk), stale(desk)
    desk.pass_s(11)

    assert (first, second, stale(desk)) == ([STOP.id], [], [STOP.id])


def test_messages_of_a_transaction_to_one_vm_go_as_one_bundle_in_their_order(desk: Desk) -> None:
    def work(tx: outbox.Tx) -> list[OutboxRow]:
        for message in stops(4):
            outbox.put(tx, down("vm-2" if message.id == "0002" else "vm-1"), message)
        return outbox.fresh(tx)

    rows = desk.ledger.write(work)

    assert {row.routing_key: [decode(b).id for b in unbundle(row.body)] for row in rows} == {
        "vm.1": ["0000", "0001", "0003"],
        "vm.2": ["0002"],
    }
    assert desk.ledger.read(outbox.depth) == 2


def test_messages_to_a_site_go_one_by_one(desk: Desk) -> None:
    desk.ledger.write(lambda tx: outbox.put_all(tx, [(down("site-a"), message) for message in stops(3)]))

    desk.pass_s(11)

    assert stale(desk) == ["0000", "0001", "0002"]


def test_a_bundle_is_bounded_in_messages_and_in_bytes(desk: Desk) -> None:
    def rows(*messages: JobStop) -> list[int]:
        def work(tx: outbox.Tx) -> list[OutboxRow]:
            outbox.put_all(tx, [(down("vm-1"), message) for message in messages])
            return outbox.fresh(tx)

        return [len(unbundle(row.body)) for row in desk.ledger.write(work)]

    long = JobStop(target="vm-1", job="site-a/one.1", attempt=1, reason="x" * (BUNDLE_BYTES // 2))

    assert rows(*stops(MOST_IN_BUNDLE + 1)) == [MOST_IN_BUNDLE, 1]
    assert rows(*(msgspec.structs.replace(long, id=uuid7()) for _ in range(3))) == [1, 1, 1]


def test_a_transaction_that_fails_leaves_no_message(desk: Desk) -> None:
    def work(tx: outbox.Tx) -> None:
        outbox.put(tx, down("vm-1"), STOP)
        raise LookupError

    try:
        desk.ledger.write(work)
    except LookupError:
        pass

    assert desk.ledger.read(outbox.depth) == 0
