"""Good messages as fast as a VM can send them: others go on as before, and who does not stop is cut off and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.management import Management
from broker.node import read_node_address
from schemas.codec import encode
from schemas.jobs import JobBeat
from tests.system.flooding import beat, flooding
from tests.system.fuzzing import reconnects, stranger
from tests.system.running import System, running, until
from tests.system.test_flood import BEAT
from tests.system.test_fuzz import OPTIONS, processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

#: No guest notices that a beat was answered so late, seconds: the next one is due after 15.
UNNOTICED_S = 1.0
#: Time in which others beat, seconds.
BEATING_S = 8.0
LARGE = encode(JobBeat(holding=[], generation=1, refused={"x" * 1_000_000: 1}))


@pytest.mark.parametrize(("body", "count"), [(BEAT, 20_000), (LARGE, 400)], ids=["small", "large"])
def test_the_beats_of_others_are_answered_as_before(body: bytes, count: int, tmp_path: Path) -> None:
    with running(*OPTIONS) as system, stranger(system) as vm, stranger(system) as one, stranger(system) as another:
        before, links = processes(system), reconnects(system.layout)
        quiet = beat(one, BEATING_S)

        flood = flooding(tmp_path, vm, "beat", body, count)
        busy = beat(another, BEATING_S)
        flood.wait(120)

        print(f"p99 of an answer: quiet {quiet.p99_s * 1000:.1f} ms, in the flood {busy.p99_s * 1000:.1f} ms")
        assert busy.refused == 0
        assert processes(system) == before
        assert reconnects(system.layout) == links
        assert busy.p99_s < max(2 * quiet.p99_s, UNNOTICED_S)


def test_one_that_does_not_stop_is_cut_off_and_named(tmp_path: Path) -> None:
    with running(*OPTIONS) as system, stranger(system) as vm, stranger(system) as other:
        flood = flooding(tmp_path, vm, "beat", BEAT, 1_000_000)

        until(
            lambda: vm.user in Management(read_node_address(system.layout.node).administration).users.shut_out(),
            "it is cut off",
            120,
        )
        assert flood.wait(60) == 0, "the broker has hung up on it"
        assert "principal cut off" in _said_of(vm.user, system)
        assert len(beat(other, 1.0).took_s) >= 20


def _said_of(user: str, system: System) -> str:
    lines = (system.layout.logs / "key_manager.log").read_text().splitlines()
    return "\n".join(line for line in lines if user in line)
