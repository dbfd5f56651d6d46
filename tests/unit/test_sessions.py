"""Which connections a new one replaces."""

from __future__ import annotations

import time

from broker.keys.sessions import Sessions
from broker.management import ConnectionInfo


def connection(number: int, user: str = "vm-a", label: str = "vm-a agent") -> ConnectionInfo:
    return ConnectionInfo(connected_at=number, name=f"c{number}", user=user, label=label)


def test_an_agent_that_comes_back_replaces_its_earlier_connection() -> None:
    sessions = Sessions()

    assert sessions.opened(connection(1)) == []
    assert sessions.opened(connection(2)) == ["c1"]


def test_one_that_is_closed_already_is_not_replaced() -> None:
    sessions = Sessions()
    sessions.opened(connection(1))
    sessions.closed("c1")
    sessions.closed("c1")

    assert sessions.opened(connection(2)) == []


def test_another_user_and_another_name_are_left_alone() -> None:
    sessions = Sessions()
    sessions.opened(connection(1, user="vm-b"))
    sessions.opened(connection(2, label="vm-a files"))

    assert sessions.opened(connection(3)) == []


def test_consoles_and_adapters_may_be_there_twice() -> None:
    for user in ("console-a", "adapter-job-1", "site-a", "keys", "administrator"):
        sessions = Sessions()
        sessions.opened(connection(1, user=user))

        assert sessions.opened(connection(2, user=user)) == []


def test_the_brokers_list_tells_what_was_missed() -> None:
    sessions = Sessions()

    assert sessions.listed([connection(3), connection(1), connection(2)]) == ["c1", "c2"]


def test_a_list_that_lags_does_not_make_a_newer_connection_forgotten() -> None:
    sessions = Sessions()
    sessions.opened(connection(5))

    assert sessions.listed([connection(1, user="vm-b")]) == []
    assert sessions.opened(connection(6)) == ["c5"]


def test_a_list_that_comes_late_never_closes_the_newest() -> None:
    sessions = Sessions()
    sessions.opened(connection(1))
    sessions.opened(connection(2))

    assert "c2" not in sessions.listed([connection(1), connection(2)])
    assert "c2" not in sessions.listed([connection(1)])


def test_a_connection_of_one_agent_is_not_compared_with_those_of_ten_thousand_others() -> None:
    sessions = Sessions()
    for number in range(10_000):
        sessions.opened(connection(number, user=f"vm-{number}"))

    began = time.thread_time()
    for number in range(200):
        assert sessions.opened(connection(20_000 + number, user="vm-7")) == [
            "c7",
            *(f"c{20_000 + n}" for n in range(number)),
        ]
        assert len(sessions.of("vm-7")) == number + 2
    assert time.thread_time() - began < 1.0


def test_users_without_connections_are_not_remembered() -> None:
    sessions = Sessions()
    for number in range(100):
        sessions.opened(connection(number, user=f"vm-{number}"))
        sessions.closed(f"c{number}")

    assert sessions._of == {}
