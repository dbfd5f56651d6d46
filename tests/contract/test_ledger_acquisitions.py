"""What grids have given, until it is a job of ours: whoever takes it may end, and it may be what ends them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapters.ledger import acquisitions
from adapters.ledger.acquisitions import SUSPECT, Acquisition, AcquisitionKey
from adapters.ledger.transaction import Tx
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

LYON = "lyon"


def give(desk: Desk, *names: str) -> None:
    rows = [Acquisition(key=AcquisitionKey(LYON, name, 1), data=b"job", work=b"work") for name in names]
    desk.write(lambda tx: acquisitions.put(tx, rows))


def take(desk: Desk, *, is_idle: bool = True) -> dict[str, Acquisition]:
    return {one.key.id: one for one in desk.write(lambda tx: acquisitions.take(tx, LYON, is_idle=is_idle))}


def end(desk: Desk, *, in_order: bool = False) -> None:
    """Have the adapter end, with or without a last word; one that is started anew is at nothing."""
    if in_order:
        desk.write(lambda tx: acquisitions.renew(tx, LYON, ()))
    desk.pass_s(1)
    desk.write(lambda tx: acquisitions.renew(tx, LYON, (), has_ended=True))


def make_suspect(desk: Desk, *names: str) -> None:
    give(desk, *names)
    for _ in range(SUSPECT):
        assert sorted(take(desk)) == sorted(names)
        end(desk)


def test_what_was_in_hand_at_several_ends_is_taken_alone_by_one_that_is_idle(desk: Desk) -> None:
    make_suspect(desk, "a", "b")
    has_before = desk.write(lambda tx: acquisitions.has_suspect(tx, LYON))
    busy = take(desk, is_idle=False)
    alone = [take(desk), take(desk)]
    give(desk, "c", "d")

    assert (has_before, busy) == (True, {})
    assert [sorted(taken) for taken in alone] == [["a"], ["b"]]
    assert {one.lost for taken in alone for one in taken.values()} == {SUSPECT}
    assert sorted(take(desk)) == ["c", "d"]
    assert not desk.write(lambda tx: acquisitions.has_suspect(tx, LYON))


def test_what_is_to_be_alone_waits_and_others_pass(desk: Desk) -> None:
    make_suspect(desk, "a")
    give(desk, "c", "d")

    assert sorted(take(desk, is_idle=False)) == ["c", "d"]
    assert sorted(take(desk)) == ["a"]


def test_an_end_in_order_and_a_doubt_are_no_ends_and_no_tries(desk: Desk) -> None:
    give(desk, "a")
    for _ in range(SUSPECT + 1):
        take(desk)
        end(desk, in_order=True)
        take(desk)
        desk.write(lambda tx: acquisitions.renew(tx, LYON, ()))

    taken = take(desk)["a"]

    assert (taken.lost, taken.tries) == (0, 1)


def test_whoever_is_not_heard_of_until_its_time_is_up_has_ended(desk: Desk) -> None:
    give(desk, "a")
    take(desk)
    desk.pass_s(acquisitions.CLAIM_MS / 1000)

    taken = take(desk)["a"]

    assert (taken.lost, taken.tries) == (1, 2)


@pytest.mark.parametrize("word", ["again", "refuse", "stop"])
def test_whoever_says_something_of_one_has_not_been_ended_by_it(desk: Desk, word: str) -> None:
    make_suspect(desk, "a")
    taken = take(desk)["a"]
    says: dict[str, Callable[[Tx], None]] = {
        "again": lambda tx: acquisitions.again(tx, taken, "503 Service Unavailable"),
        "refuse": lambda tx: acquisitions.refuse(tx, taken, "no such input"),
        "stop": lambda tx: acquisitions.stop(tx, taken.key, "killed by its user"),
    }
    desk.write(says[word])
    desk.pass_s(acquisitions.LONGEST_S)

    again = take(desk, is_idle=False)["a"]

    assert (taken.lost, again.lost) == (SUSPECT, 0)
