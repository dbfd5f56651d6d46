"""CPU time of machines one after another: none is counted twice, and none that was told before."""

from __future__ import annotations

import os
import subprocess
import sys

from host_agent.boinc.guest_machine import GuestCpu


def test_a_child_of_ours_that_has_ended_is_counted_elsewhere() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    cpu = GuestCpu()
    cpu.look(child.pid, 5.0)
    cpu.look(child.pid, 7.0)
    assert cpu.total_s == 7.0

    child.communicate()
    assert cpu.total_s == 0.0
    cpu.look(0, 0.0)
    assert cpu.total_s == 0.0


def test_of_one_that_was_there_before_only_what_it_does_now_counts_and_stays_counted() -> None:
    cpu = GuestCpu()
    before = os.getppid()  # whoever it is, it is no child of ours
    cpu.look(before, 100.0)
    assert cpu.total_s == 0.0
    cpu.look(before, 103.0)
    assert cpu.total_s == 3.0
    cpu.look(0, 0.0)
    assert cpu.total_s == 3.0
