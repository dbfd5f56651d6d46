"""Twenty thousand messages of every field type from one VM's user, while others are at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.fuzzing import flooding, p99_s, reconnects, refused, stranger
from tests.system.running import running, until
from tests.system.test_fuzz import SEED, processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

COUNT = 20_000
#: A centre at work: four slots that take a job each tenth of a second, for longer than all this takes.
AT_WORK = ("--hypervisor", "process", "--vms", "2", "--cpus", "2")
WORK = {"id": "work", "executable": "/bin/sleep", "arguments": ["0.1"], "array": 20_000}
#: An answer that comes within this time is at once for a person, whatever it was before. On two cores the stranger, who
#: has a machine of his own, and the broker, the adapters and who measures take the processor from each other.
UNNOTICED_S = 0.1
#: Time in which a quiet centre is measured, seconds.
QUIET_S = 20.0


def test_20000_messages_lose_no_link_and_hold_nobody_up(tmp_path: Path) -> None:
    with running(*AT_WORK) as system, stranger(system) as vm:
        with system.client() as client:
            client.jobs.submit(WORK)
        before, links = processes(system), reconnects(system.layout)
        quiet_s = p99_s(system, QUIET_S)

        others = flooding(tmp_path, vm, COUNT, SEED)
        busy_s = p99_s(system, QUIET_S)
        assert others.wait(600) == 0
        until(lambda: refused(system.layout) >= COUNT, f"{COUNT} counted", 300)
        assert refused(system.layout) == COUNT

        print(f"p99 of an answer: quiet {quiet_s * 1000:.1f} ms, in the flood {busy_s * 1000:.1f} ms")
        assert processes(system) == before
        assert reconnects(system.layout) == links
        assert busy_s < max(2 * quiet_s, UNNOTICED_S)
