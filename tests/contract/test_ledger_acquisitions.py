"""What grids have given, until it is a job of ours: whoever takes it may end, and it may be what ends them."""

from __future__ import annotations

from adapters.ledger import acquisitions
from adapters.ledger.acquisitions import SUSPECT, Acquisition, AcquisitionKey
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

LYON = "lyon"


def give(desk: Desk, *names: str) -> None:
    rows = [Acquisition(key=AcquisitionKey(LYON, name, 1), data=b"job", work=b"work") for name in names]
    desk.write(lambda tx: acquisitions.put(tx, rows))


def take(desk: Desk) -> dict[str, Acquisition]:
    return {one.key.id: one for one in desk.write(lambda tx: acquisitions.take(tx, LYON))}


def end(desk: Desk) -> None:
    """Have the adapter be started anew, which knows of nothing."""
    desk.pass_s(1)
    desk.write(lambda tx: acquisitions.renew(tx, LYON, ()))


def test_what_was_in_hand_at_several_ends_is_taken_alone_and_what_came_since_with_others(
    desk: Desk,
) -> None:
    give(desk, "a", "b")
    together = []
    for _ in range(SUSPECT):
        together.append(sorted(take(desk)))
        end(desk)
    alone = [take(desk), take(desk)]
    give(desk, "c", "d")

    assert together == [["a", "b"]] * SUSPECT
    assert sorted(name for taken in alone for name in taken) == ["a", "b"]
    assert [len(taken) for taken in alone] == [1, 1]
    assert sorted(take(desk)) == ["c", "d"]


def test_whoever_says_something_of_one_has_not_been_ended_by_it(desk: Desk) -> None:
    give(desk, "a")
    for _ in range(SUSPECT):
        taken = take(desk)
        end(desk)
    desk.write(lambda tx: acquisitions.again(tx, taken["a"], "503 Service Unavailable"))
    desk.pass_s(acquisitions.LONGEST_S)

    again = take(desk)["a"]

    assert (taken["a"].lost, again.lost) == (SUSPECT - 1, 0)
    assert again.tries > SUSPECT
