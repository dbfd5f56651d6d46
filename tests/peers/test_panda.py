"""A real PanDA server: the story that the stand-in is played too, and what was said, which must be the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.ledger_fixtures import Cluster, cluster
from tests.peers.panda_peer import PandaPeer, demand_panda
from tests.sources.panda_standin import PandaStandIn
from tests.sources.panda_story import TRANSCRIPT, play

__all__ = ["cluster"]

pytestmark = pytest.mark.peers

HEAD = """\
# What was said between a source and panda-server 1.0.4 in the story of tests/sources/panda_story.py. Numbers of jobs
# are J1, J2 and so on, anew in each part; the keys of JSON are in order. Written by `make peers`; the server that plays
# PanDA in the other tests must say the same.
"""


@pytest.fixture(scope="module")
def grid(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PandaPeer]:
    demand_panda()
    peer = PandaPeer(tmp_path_factory.mktemp("panda"), cluster)
    yield peer
    peer.close()


def test_the_real_server_and_the_stand_in_say_the_same_in_the_same_story(
    grid: PandaPeer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "played").mkdir()
    standin = PandaStandIn()

    real = play(grid, tmp_path / "real")
    try:
        played = play(standin, tmp_path / "played")
    finally:
        standin.close()

    TRANSCRIPT.write_text(HEAD + real)
    record_property("exchanges", sum(line.startswith("<") for line in real.splitlines()))
    assert played.splitlines() == real.splitlines()
