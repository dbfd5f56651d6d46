"""A system killed at each write of its making, one run a write: it always goes down, and it always comes up again."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.test_centre import OPTIONS, placed

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

#: ``volcloud`` that is killed in place of its Nth durable write, or right after it.
KILLED = """
import os, signal, sys
from broker import durable
from volcloud.main import main

left, when = int(sys.argv.pop(1)), sys.argv.pop(1)
real = durable.replace

def replace(*arguments, **options):
    global left
    left -= 1
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **options)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

durable.replace = replace
main()
"""
#: More than a start writes: the run that is not killed is the last.
MOST_WRITES = 60


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_system_killed_at_any_of_its_writes_goes_down_and_comes_up(when: str) -> None:
    with placed(Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))) as place:
        for write in range(1, MOST_WRITES):
            command = [sys.executable, "-c", KILLED, str(write), when, "up", *OPTIONS]
            with subprocess.Popen(command, env=place.environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                is_ready = any("ready; Ctrl-C" in line for line in process.stdout)
                if is_ready:
                    process.terminate()
            assert process.returncode in (0, -signal.SIGKILL)
            place.ok("down")
            assert place.left() == [], f"after write {write}"
            if is_ready:
                break

        place.ready()
        place.runs_a_job("after-them-all")
