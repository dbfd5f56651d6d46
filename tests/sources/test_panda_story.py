"""The server that plays PanDA says what the real one said, in the same story."""

from __future__ import annotations

from pathlib import Path

from tests.sources.panda_standin import PandaStandIn
from tests.sources.panda_story import TRANSCRIPT, play


def test_the_stand_in_says_what_the_real_server_said(tmp_path: Path) -> None:
    standin = PandaStandIn()
    try:
        said = play(standin, tmp_path)
    finally:
        standin.close()

    assert said.splitlines() == [line for line in TRANSCRIPT.read_text().splitlines() if not line.startswith("#")]
