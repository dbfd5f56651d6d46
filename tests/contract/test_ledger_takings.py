"""Calls in which jobs are taken at a grid: what one took is written down once, or given back, and never both."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from adapters.errors import SourceInUse
from adapters.ledger import acquisitions, sources, takings
from adapters.ledger.acquisitions import Acquisition, AcquisitionKey
from adapters.ledger.demand import FRESH_MS
from adapters.ledger.takings import CLAIM_MS, LAPSED_MS, LATE_MS, PORTION
from adapters.ledger.transaction import Tx
from schemas.grids import SourceDelete
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

LYON = "lyon"
KEY = AcquisitionKey(LYON, "a", 1)


def begin(desk: Desk, source: str = LYON) -> str:
    return desk.write(lambda tx: takings.begin(tx, source))


def claim(desk: Desk, source: str = LYON) -> list[str]:
    return desk.write(lambda tx: takings.claim(tx, source))


def end(desk: Desk, *names: str, source: str = LYON) -> set[str]:
    return desk.write(lambda tx: takings.end(tx, source, names))


def test_one_that_is_over_in_time_is_never_seen_to(desk: Desk) -> None:
    name = begin(desk)
    desk.pass_s(LAPSED_MS / 1000 - 1)

    assert (claim(desk), end(desk, name)) == ([], set())
    desk.pass_s(LAPSED_MS / 1000)
    assert claim(desk) == []
    assert not desk.ledger.read(lambda tx: takings.is_any_due(tx, LYON))


def test_one_that_has_lapsed_is_void_for_good_and_seen_to_by_one_at_a_time_until_nothing_can_arrive(desk: Desk) -> None:
    name, other = begin(desk), begin(desk, "oslo")
    desk.pass_s(LAPSED_MS / 1000)

    assert desk.ledger.read(lambda tx: takings.is_any_due(tx, LYON))
    assert (claim(desk), claim(desk)) == ([name], [])
    assert end(desk, name) == {name}
    desk.pass_s(CLAIM_MS / 1000)
    assert (claim(desk), end(desk, name)) == ([name], {name})
    desk.write(lambda tx: takings.seen_to(tx, LYON, [name], 3))
    assert desk.counts["given_lost"] == 3
    desk.pass_s(LATE_MS / 1000)
    assert claim(desk) == [name]
    desk.write(lambda tx: takings.seen_to(tx, LYON, [name], 0))
    desk.pass_s(LATE_MS / 1000)
    assert claim(desk) == []
    assert end(desk, name) == {name}, "nobody knows it"
    assert claim(desk, "oslo") == [other]


def test_those_of_a_grid_that_was_down_for_long_are_seen_to_in_portions_the_oldest_first(desk: Desk) -> None:
    names = [begin(desk) for _ in range(PORTION + 3)]
    desk.pass_s(LAPSED_MS / 1000)

    portions = [claim(desk) for _ in range(3)]

    assert [len(one) for one in portions] == [PORTION, 3, 0]
    assert {name for one in portions for name in one} == set(names)


def test_one_that_could_not_be_seen_to_is_due_at_once(desk: Desk) -> None:
    name = begin(desk)
    desk.pass_s(LAPSED_MS / 1000)
    claimed = claim(desk)
    desk.write(lambda tx: takings.give_up(tx, LYON, claimed))

    assert (claimed, claim(desk)) == ([name], [name])


def test_one_of_which_jobs_come_too_late_is_seen_to_whether_it_is_known_or_not(desk: Desk) -> None:
    name = begin(desk)
    desk.write(lambda tx: takings.make_void(tx, LYON, [name, "unheard-of"]))

    assert sorted(claim(desk)) == sorted([name, "unheard-of"])
    assert end(desk, name) == {name}


def test_a_source_with_calls_that_came_to_nothing_is_not_forgotten_unless_it_is_given_up(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, LYON, "memory", ""))
    name = begin(desk)
    desk.pass_s(FRESH_MS / 1000)

    with pytest.raises(SourceInUse, match=f"1 call may have taken jobs .*{name}"):
        desk.write(lambda tx: sources.forget(tx, SourceDelete(source=LYON)))
    desk.write(lambda tx: sources.forget(tx, SourceDelete(source=LYON, give_up=True)))

    desk.pass_s(LAPSED_MS / 1000)
    assert claim(desk) == []


def test_of_one_that_is_made_void_while_it_ends_either_is_heeded(desk: Desk, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite lets nobody write at once")
    name, found = begin(desk), list[set[str]]()
    desk.pass_s(LAPSED_MS / 1000)
    ending = threading.Thread(target=lambda: found.append(end(desk, name)), daemon=True)

    def hold(tx: Tx) -> list[str]:
        claimed = takings.claim(tx, LYON)
        ending.start()
        ending.join(0.5)
        return claimed

    claimed = desk.write(hold)
    ending.join(20)

    assert (claimed, found) == ([name], [{name}])


def test_one_that_another_ends_just_now_is_not_waited_for(desk: Desk, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite lets nobody write at once")
    name, found = begin(desk), list[list[str]]()
    desk.pass_s(LAPSED_MS / 1000)
    claiming = threading.Thread(target=lambda: found.append(claim(desk)), daemon=True)

    def hold(tx: Tx) -> set[str]:
        late = takings.end(tx, LYON, [name])
        claiming.start()
        claiming.join(20)
        return late

    assert (desk.write(hold), found) == (set(), [[]])


def test_what_becomes_a_job_while_it_is_looked_for_is_known(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(lambda tx: acquisitions.put(tx, [Acquisition(key=KEY, data=b"")]))
    asked = list[object]()

    def becomes_a_job() -> None:
        desk.submit(KEY.job_id, owner=KEY.owner)
        desk.write(lambda tx: acquisitions.forget(tx, [KEY]))

    def unknown(tx: Tx) -> list[AcquisitionKey]:
        execute = tx.execute

        def once(*arguments: Any) -> Any:
            answer = execute(*arguments)
            asked.append(arguments)
            # Between our two questions; all that SQLite answers is of one moment.
            if len(asked) == 1 and not tx.is_sqlite:
                becomes_a_job()
            return answer

        monkeypatch.setattr(tx, "execute", once)
        return acquisitions.unknown(tx, [KEY])

    assert desk.ledger.read(unknown) == []
    assert asked
