"""A picture of a VM's screen as a console takes it: a host decides how many parts it sends, and what it says of it."""

from __future__ import annotations

import hashlib

import pytest

from broker.errors import OutputLost
from schemas.ids import uuid7
from schemas.looks import MOST_OF_A_SCREEN, SCREEN_PART_BYTES, ScreenPart, ScreenReply
from volcloud.client.looks import _Picture

CALL = uuid7()


def part(number: int, data: bytes = b"png") -> ScreenPart:
    return ScreenPart(call=CALL, number=number, data=data)


def end(data: bytes, parts: int) -> ScreenReply:
    return ScreenReply(call=CALL, parts=parts, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_it_is_whole_when_its_parts_have_come_in_order() -> None:
    picture = _Picture()
    picture.take(part(0, b"a"))
    picture.take(part(1, b"b"))

    assert picture.whole(end(b"ab", 2)) == b"ab"


@pytest.mark.parametrize("number", [1, 1 << 53])
def test_a_part_out_of_turn_is_a_loss(number: int) -> None:
    with pytest.raises(OutputLost, match="take another"):
        _Picture().take(part(number))


def test_parts_that_are_said_and_never_came_cost_nothing() -> None:
    picture = _Picture()
    picture.take(part(0, b"a"))

    with pytest.raises(OutputLost, match="1 of 2 bytes"):
        picture.whole(end(b"ab", 1 << 53))


def test_a_host_that_sends_without_an_end_is_left() -> None:
    picture, most = _Picture(), MOST_OF_A_SCREEN // SCREEN_PART_BYTES
    for number in range(most):
        picture.take(part(number, bytes(SCREEN_PART_BYTES)))

    with pytest.raises(OutputLost):
        picture.take(part(most, bytes(SCREEN_PART_BYTES)))
