"""What is dropped unread is acknowledged many at a time, and never what somebody still has at hand."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from broker.receipts import Receipts


class Channel:
    """Notes what a broker would take as acknowledged, and how often it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.settled: set[int] = set()
        self.given = 0
        self.turn: list[Callable[[], None]] = []
        self.receipts = Receipts(self._settler, self._up_to, self.turn.append)

    def _settler(self, tag: int) -> Callable[[bool], None]:
        def settle(rejected: bool) -> None:
            self.told.append(f"{'reject' if rejected else 'ack'} {tag}")
            assert tag not in self.settled, "a tag that the broker does not know ends the channel"
            self.settled.add(tag)

        return settle

    def _up_to(self, tag: int) -> None:
        self.told.append(f"ack up to {tag}")
        fresh = set(range(1, tag + 1)) - self.settled
        assert fresh, "nor may nothing be acknowledged"
        self.settled |= fresh

    def end_turn(self) -> None:
        turn, self.turn[:] = list(self.turn), []
        for work in turn:
            work()

    def next(self) -> int:
        self.given += 1
        return self.given


def test_a_turn_of_dropped_messages_is_one_word() -> None:
    channel = Channel()

    for _ in range(100):
        channel.receipts.drop(channel.next())
    channel.end_turn()

    assert channel.told == ["ack up to 100"]


def test_one_at_hand_is_not_acknowledged_with_those_around_it() -> None:
    channel = Channel()

    channel.receipts.drop(channel.next())
    channel.receipts.drop(channel.next())
    settle = channel.receipts.open(channel.next())
    channel.receipts.drop(channel.next())
    channel.end_turn()
    assert channel.told == ["ack up to 2", "ack 4"]
    settle(True)
    channel.receipts.drop(channel.next())
    channel.end_turn()

    assert channel.told == ["ack up to 2", "ack 4", "reject 3", "ack up to 5"]


@given(st.lists(st.sampled_from(["open", "drop", "settle", "turn"]), max_size=200), st.randoms())
def test_every_tag_is_settled_once_whatever_the_order(steps: list[str], choice) -> None:  # type: ignore[no-untyped-def]
    channel, at_hand, dropped = Channel(), {}, set()
    for step in steps:
        if step == "open":
            tag = channel.next()
            at_hand[tag] = channel.receipts.open(tag)
        elif step == "drop":
            dropped.add(tag := channel.next())
            channel.receipts.drop(tag)
        elif step == "settle" and at_hand:
            at_hand.pop(choice.choice(sorted(at_hand)))(False)
        else:
            channel.end_turn()
        assert not channel.settled & set(at_hand)
    channel.end_turn()

    assert channel.settled == set(range(1, channel.given + 1)) - set(at_hand)
