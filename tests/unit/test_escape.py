"""What is typed at the beginning of a line to speak to us and not to the VM."""

from __future__ import annotations

import pytest

from volcloud.escape import Escape


def typed(*pieces: bytes) -> tuple[bytes, bool, bool]:
    escape, passed, leaves, asks = Escape(), b"", False, False
    for piece in pieces:
        one = escape.take(piece)
        passed, leaves, asks = passed + one.data, leaves or one.leaves, asks or one.asks
    return passed, leaves, asks


@pytest.mark.parametrize(
    ("pieces", "passed", "leaves", "asks"),
    [
        ([b"ls ~\r"], b"ls ~\r", False, False),
        ([b"~."], b"", True, False),
        ([b"~", b"."], b"", True, False),
        ([b"exit\r~.more"], b"exit\r", True, False),
        ([b"a~."], b"a~.", False, False),
        ([b"~~."], b"~.", False, False),
        ([b"~?"], b"", False, True),
        ([b"~", b"?", b"~."], b"", True, True),
        ([b"~x"], b"~x", False, False),
        ([b"~\r~."], b"~\r", True, False),
        ([b"\xc3\xa9~.\n~."], b"\xc3\xa9~.\n", True, False),
    ],
)
def test_only_a_tilde_at_the_beginning_of_a_line_is_for_us(
    pieces: list[bytes], passed: bytes, leaves: bool, asks: bool
) -> None:
    assert typed(*pieces) == (passed, leaves, asks)
