"""The top of a daemon's main: what a person sees of what ended it."""

from __future__ import annotations

import pytest

from broker.daemon.exit import judged
from broker.errors import RemoteError
from schemas.errors import ErrorCode


def test_what_a_stranger_said_does_no_harm_to_the_terminal_that_it_is_shown_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, judged("host_agent", by_hand=True):
        raise RemoteError(ErrorCode.INTERNAL, "no\x1b]0;owned\x07\x1b[2J", "ask \x1b[8mme")

    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert shown.startswith("host_agent: no")
    assert "\x1b" not in shown
    assert "\x07" not in shown
