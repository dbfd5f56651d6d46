"""Whoever is looked for in vain once, as he is just becoming another program, is found by the next look."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_agent.hypervisors.process import signals


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as one:
        yield one
        one.kill()


async def test_a_process_that_one_look_misses_is_ended_all_the_same(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([set(), {child.pid}, set(), set(), {child.pid}])
    monkeypatch.setattr(signals, "_find_in_other_state", lambda *_: next(looks))

    await signals.signal_until(tmp_path, None, signal.SIGKILL, "")

    assert child.wait(10) == -signal.SIGKILL
    assert next(looks) == {child.pid}, "two looks in vain are enough"
