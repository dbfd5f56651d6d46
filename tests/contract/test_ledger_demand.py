"""For which slots a source is asked, where there are several, and one of them is slow."""

from __future__ import annotations

from adapters.ledger import accounts, demand, sources
from adapters.ledger.acquisitions import owner_of
from adapters.ledger.demand import CLAIM_MS, FRESH_MS, REGARD_MS
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]


def slots_ask(desk: Desk, count: int) -> None:
    for number in range(count):
        desk.ask(f"vm-{number}")


def say(desk: Desk, *names: str) -> None:
    """Have adapters of sources say that they are there."""
    for name in names:
        desk.write(lambda tx, name=name: sources.seen(tx, name, "memory", ""))


def claim(desk: Desk, source: str, most: int = 100) -> int:
    free = desk.write(lambda tx: demand.claim(tx, source, most))
    return sum(one.slots for one in free)


def settle(desk: Desk, source: str, asked: int, given: int = 0, pause_s: float = 0.0) -> None:
    desk.write(lambda tx: demand.settle(tx, source, asked=asked, given=given, pause_s=pause_s))


def test_sources_are_asked_for_their_parts_of_what_is_free_by_weight(desk: Desk) -> None:
    desk.write(lambda tx: accounts.put(tx, owner_of("lyon"), share=3))
    slots_ask(desk, 8)
    say(desk, "lyon", "oslo")

    assert claim(desk, "lyon") == 6
    assert claim(desk, "oslo") == 1  # of the two that are left it has a quarter, at least one
    assert claim(desk, "oslo") == 1
    assert claim(desk, "lyon") == 0


def test_one_that_has_just_said_that_it_has_nothing_or_is_not_there_costs_the_others_nothing(desk: Desk) -> None:
    slots_ask(desk, 8)
    say(desk, "gone")
    desk.pass_s(FRESH_MS / 1000 + 1)
    say(desk, "lyon", "oslo")
    settle(desk, "oslo", asked=0, pause_s=60)

    assert claim(desk, "lyon") == 8


def test_one_that_takes_long_to_answer_costs_the_others_little_and_is_not_asked_again_for_the_same(desk: Desk) -> None:
    slots_ask(desk, 4)
    say(desk, "lyon")
    asked = claim(desk, "lyon")
    say(desk, "oslo")

    at_once = claim(desk, "oslo")
    desk.pass_s(REGARD_MS / 1000)
    later = claim(desk, "oslo")
    again = claim(desk, "lyon")
    settle(desk, "oslo", asked=later)
    desk.pass_s(CLAIM_MS / 1000)
    say(desk, "lyon", "oslo")

    assert (asked, at_once, later, again) == (4, 0, 2, 0)
    assert claim(desk, "lyon") == 2, "whoever never answered is asked again in the end"
