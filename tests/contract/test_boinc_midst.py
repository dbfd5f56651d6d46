"""A machine under BOINC, ended in the very midst of writing what it would go on from: the one before is taken."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from host_agent.boinc import guest_machines
from host_agent.hypervisors.contract import ImageFiles
from host_agent.hypervisors.qemu.memory import MEMORY_BEING_WRITTEN
from tests.contract.boinc_guest import GuestSlot
from tests.source import ROOT

pytestmark = pytest.mark.qemu

EVENTS = 12
#: The client kills an agent that has not ended so long after it was told to, seconds.
KILLED_S = 60.0
#: An agent that waits only so long for a machine to be saved.
SAVE_S = 4
IMPATIENT = f"""
from host_agent.boinc import guest_machines
guest_machines.SAVE_S = {SAVE_S}
from host_agent.main import main
main()
"""


def catch(slot: GuestSlot, pattern: str) -> None:
    """Have the machine stand still while there is such a file in its directory."""
    home, machine = slot.slot / "host_agent_machines" / "hypervisor" / "vms", int(slot.last("other_pid"))
    deadline = time.monotonic() + 120
    while True:
        while not (found := list(home.glob(f"*/{pattern}"))):
            assert time.monotonic() < deadline, slot.stderr
            time.sleep(0.001)
        os.kill(machine, signal.SIGSTOP)
        if any(path.exists() for path in found):
            return
        os.kill(machine, signal.SIGCONT)  # too late: the next one


def written(slot: GuestSlot) -> int:
    """Give the number of the last checkpoint that was written."""
    return max((int(number) for number in re.findall(r"checkpoint-(\d+) is written", slot.stderr)), default=0)


def test_one_killed_in_the_midst_of_a_snapshot_or_too_slow_to_be_saved_goes_on_from_the_last_whole_one(
    tmp_path: Path, guest_image: ImageFiles
) -> None:
    slot = GuestSlot(tmp_path / "client", guest_image)
    slot.job(str(EVENTS), checkpoint_s=2)
    try:
        slot.run()
        slot.until_done(0.1)
        before = written(slot)
        slot.until(lambda: written(slot) > before, "a checkpoint is written in the midst of the job", 60)
        catch(slot, "*.void-snapshot")
        last = written(slot)
        assert slot.process is not None
        for pid in (slot.process.pid, *slot.machines()):
            os.kill(pid, signal.SIGKILL)
        slot.process.wait()
        assert written(slot) == last
        told_s = slot.last("checkpoint_cpu_time")

        slot.write_init_data()
        slot.start([sys.executable, "-c", IMPATIENT], {**os.environ, "PYTHONPATH": str(ROOT)})
        slot.until(lambda: f"goes back to checkpoint-{last}" in slot.stderr, "it goes back", 60)
        slot.until(lambda: written(slot) > last, "it writes checkpoints again", 60)
        slot.want("quit")
        catch(slot, MEMORY_BEING_WRITTEN)
        began_s = time.monotonic()
        assert slot.end(60) == 0
        assert time.monotonic() - began_s < SAVE_S + KILLED_S - guest_machines.SAVE_S, "the client would have killed it"
        assert slot.machines() == set()
        assert f"is not saved: it takes longer than {SAVE_S} s; checkpoint-" in slot.stderr

        slot.run()
        assert slot.end(180) == 0, slot.stderr

        assert slot.events() == [f"event {number}" for number in range(1, EVENTS + 1)], slot.stderr
        assert slot.stderr.count("goes back to checkpoint-") == 2
        assert slot.stderr.count("is given its job") == 1, "it never began anew"
        assert slot.last("current_cpu_time") > told_s > 0
    finally:
        left = slot.machines()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        slot.close()
