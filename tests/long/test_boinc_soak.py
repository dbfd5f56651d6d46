"""Many short tasks in virtual machines under a client that is played, each with a fault or two at a moment that a seed
chooses: every one ends with its result or with a stated reason, none twice, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from host_agent.boinc.slot_files import FINISHED, TEMPORARY_EXIT
from host_agent.hypervisors.contract import ImageFiles
from tests.contract.boinc_guest import GuestSlot
from tests.contract.conftest import guest_image  # noqa: F401  a fixture

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(3 * 3600)]

TASKS = int(os.environ.get("VOLCLOUD_SOAK_TASKS", "300"))
AT_ONCE = 2
SEED = int(os.environ.get("VOLCLOUD_SOAK_SEED", str(time.time_ns() % 10**6)))
EVENTS = 5
#: How long one task may take in all, with its faults, seconds.
PATIENCE_S = 400.0
#: Of a thousand tasks so many may end otherwise.
MOST_OF_1000 = 1


class Soaked:
    """One task: started, troubled, started again, until it has ended."""

    def __init__(self, directory: Path, image: ImageFiles, seed: str) -> None:
        self._choose = random.Random(seed)
        self.slot = GuestSlot(directory, image)
        self.slot.job(str(EVENTS), checkpoint_s=2)
        self.faults: list[str] = []

    def run(self) -> str:
        """Give how it ended: ``result``, ``reason``, or what is wrong."""
        deadline = time.monotonic() + PATIENCE_S
        acts = self._choose.choices(
            [self._kill_agent, self._kill_machine, self._power_cut, self._quit, self._hold], k=2
        )
        troubles = [*self._choose.choices(acts, k=2), None]
        while time.monotonic() < deadline:
            self.slot.run()
            trouble = troubles.pop(0) if len(troubles) > 1 else None
            if trouble is not None:
                self._wait(self._choose.uniform(0.2, 14.0))
                if self._is_running():
                    self.faults.append(trouble.__name__)
                    trouble()
            self.slot.end(PATIENCE_S)
            if (self.slot.slot / FINISHED).exists():
                return self._judge()
            (self.slot.slot / TEMPORARY_EXIT).unlink(missing_ok=True)
            self.slot.write_init_data()
        return "it does not end"

    def _judge(self) -> str:
        status, _, reason = (self.slot.slot / FINISHED).read_text().partition("\n")
        if left := self.slot.machines():
            return f"processes are left: {left}"
        if list((self.slot.slot / "host_agent_machines" / "hypervisor").glob("vms/*")):
            return "a machine's files are left"
        if status != "0":
            return "reason" if reason.strip() else f"status {status} without a reason"
        wanted = ["given", *(f"event {number}" for number in range(1, EVENTS + 1))]
        printed = self.slot.out.read_text().splitlines()
        return "result" if printed == wanted else f"its output is {printed}"

    def _is_running(self) -> bool:
        return self.slot.process is not None and self.slot.process.poll() is None

    def _wait(self, for_s: float) -> None:
        until_s = time.monotonic() + for_s
        self.slot.until(lambda: time.monotonic() > until_s or not self._is_running(), "a while has gone", for_s + 60)

    def _kill_agent(self) -> None:
        """As a client sees it: it kills the machine that it was told of."""
        assert self.slot.process is not None
        self.slot.process.kill()
        self.slot.process.wait()
        self._kill_machine()

    def _kill_machine(self) -> None:
        for pid in self.slot.machines():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _power_cut(self) -> None:
        assert self.slot.process is not None
        for pid in (*self.slot.machines(), self.slot.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.slot.process.wait()

    def _quit(self) -> None:
        self.slot.want("quit")

    def _hold(self) -> None:
        for _ in range(3):
            self.slot.want("suspend")
            self._wait(1.0)
            if self._is_running():
                self.slot.want("resume")
                self._wait(1.0)


def test_many_tasks_with_faults(
    guest_image: ImageFiles,  # noqa: F811
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    def soak(number: int) -> tuple[int, str, list[str], str]:
        one = Soaked(tmp_path / f"task-{number}", guest_image, f"{SEED}-{number}")
        try:
            ended = one.run()
            print(f"task {number} of {TASKS}: {ended[:200]} after {', '.join(one.faults) or 'no fault'}", flush=True)
            return number, ended, one.faults, "" if ended in ("result", "reason") else one.slot.stderr[-4000:]
        except (TimeoutError, AssertionError, OSError) as error:
            return number, f"{type(error).__name__}: {error}"[:3000], one.faults, ""
        finally:
            for pid in one.slot.machines():
                os.kill(pid, signal.SIGKILL)
            one.slot.close()

    print(f"seed {SEED}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(soak, range(TASKS)))

    score = Counter(ended for _, ended, _, _ in ends)
    faults = Counter(fault.strip("_") for _, _, each, _ in ends for fault in each)
    record_property("tasks", TASKS)
    record_property("results", score["result"])
    record_property("stated reasons", score["reason"])
    record_property("faults", ", ".join(f"{count} {name}" for name, count in sorted(faults.items())))
    record_property("seed", SEED)
    bad = [one for one in ends if one[1] not in ("result", "reason")]
    assert len(bad) * 1000 <= MOST_OF_1000 * TASKS, bad
