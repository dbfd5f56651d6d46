"""How a VM's guest agent comes to be: its seed, its command line, the process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from host_agent.errors import naming_disk
from host_agent.hypervisors import kept_log
from host_agent.hypervisors.detached import finished, spawn
from host_agent.hypervisors.process.files import ProcessFiles


class ProcessStart:
    """Starts ``command``, or whatever stands for a guest agent. What is left of a failure is for the caller to end."""

    def __init__(self, files: ProcessFiles, command: Sequence[str], niceness: int) -> None:
        self._files, self._command, self._niceness = files, command, niceness

    def prepare(self, vm: str, seed: bytes) -> list[str]:
        """Write the seed to a file that only this user reads, and give the command line. Raises HypervisorError."""
        spec = self._files.spec(vm)
        with naming_disk(f"cannot start {vm}"):
            self._files.write_seed(vm, seed)
        places = ["--seed", str(self._files.seed_file(vm)), "--state-dir", str(self._files.state_directory(vm))]
        return [*self._command, *places, *(("--whereabouts", spec.broker) if spec.broker else ())]

    async def launch(self, vm: str, command: Sequence[str]) -> None:
        """Start the process and note which it is, also when cancelled meanwhile. Raises OSError."""
        home, work, log_file = self._files.path(vm), self._files.state_directory(vm), self._files.log_file(vm)
        kept_log.begin(log_file)
        start = functools.partial(spawn, niceness=self._niceness)
        process = await finished(asyncio.to_thread(start, home, command, work, log_file))
        self._files.remember_process(vm, process)
