"""A VM that sends good messages as fast as it can costs the others nothing; one that does not stop is cut off."""

from __future__ import annotations

from pathlib import Path

from broker.admission import SHARES
from schemas.codec import encode
from schemas.jobs import JobBeat
from tests.system.flooding import beat, flooding
from tests.system.fuzzing import reconnects, refused, stranger
from tests.system.running import running, until
from tests.system.test_fuzz import OPTIONS, processes

BEAT = encode(JobBeat(holding=[], generation=1))
COUNT = 5_000


def test_a_flood_of_beats_is_dropped_and_the_beats_of_others_are_answered(tmp_path: Path) -> None:
    with running(*OPTIONS) as system, stranger(system) as vm, stranger(system) as other:
        before, links = processes(system), reconnects(system.layout)

        flood = flooding(tmp_path, vm, "beat", BEAT, COUNT)
        found = beat(other, 2.0)
        flood.wait(120)

        share = SHARES["vc.beats"].messages
        until(lambda: refused(system.layout, "flood") >= 0.9 * (COUNT - share), "what is too much is counted", 60)
        assert found.refused == 0
        assert processes(system) == before
        assert reconnects(system.layout) == links
