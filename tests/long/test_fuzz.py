"""Twenty thousand messages of every field type from one VM's user, while others are at work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.fuzzing import flood, p99_s, reconnects, refused, stranger
from tests.system.running import running, until
from tests.system.test_fuzz import OPTIONS, SEED, processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

COUNT = 20_000
#: Time in which a quiet centre is measured, seconds.
QUIET_S = 20.0


def test_20000_messages_lose_no_link_and_hold_nobody_up() -> None:
    with running(*OPTIONS) as system, stranger(system) as vm:
        before, links = processes(system), reconnects(system.layout)
        quiet_s = p99_s(system, QUIET_S)

        with ThreadPoolExecutor(1) as others:
            flooding = others.submit(flood, vm, COUNT, SEED)
            busy_s = p99_s(system, QUIET_S)
            flooding.result()
        until(lambda: refused(system.layout) >= COUNT, f"{COUNT} counted", 300)
        assert refused(system.layout) == COUNT

        print(f"p99 of an answer: quiet {quiet_s * 1000:.1f} ms, in the flood {busy_s * 1000:.1f} ms")
        assert processes(system) == before
        assert reconnects(system.layout) == links
        assert busy_s < 2 * quiet_s
