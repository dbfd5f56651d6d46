"""A slot with a job for a virtual machine, a client that is played, and the agent as a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from host_agent.boinc.fake_client import FakeClient
from host_agent.hypervisors.contract import ImageFiles
from host_agent.hypervisors.detached import all_processes
from tests.source import ROOT

AGENT = [sys.executable, "-m", "host_agent.main"]
#: Counts to its argument, an event each, in some seconds under emulation; says how far it is, and what it was given.
WORKER = b"""#!/bin/sh
cat
n=$1; i=0
while [ $i -lt $n ]; do
    j=0; while [ $j -lt 60000 ]; do j=$((j+1)); done
    i=$((i+1)); echo "event $i"; printf "0.%02d" $((99*i/n)) > frac
done
echo "$n events" > result
exit ${2:-0}
"""
TASK = """<task>
    <virtualmachine>machine</virtualmachine>
    <application>worker</application>
    <copy_app_to_VM/>
    <command_line>{words}</command_line>
    <stdin_filename>in</stdin_filename>
    <stdout_filename>out</stdout_filename>
    <copy_file_from_VM>result</copy_file_from_VM>
    <fraction_done_filename>frac</fraction_done_filename>
    <memory_size_mb>256</memory_size_mb>
    <minimum_checkpoint_interval>{checkpoint_s}</minimum_checkpoint_interval>
    {more}
</task>"""
#: What the image's files are called in the project's directory.
PHYSICAL = "image_1_{name}"


class GuestSlot(FakeClient):
    """See the module."""

    def __init__(self, directory: Path, image: ImageFiles, number: int = 0, **init_data: object) -> None:
        super().__init__(directory, ["worker"], number, **{"ncpus": 1, **init_data})
        assert image.disk is not None
        for path in image.disk.parent.iterdir():
            self.add_image_file(path)
        self.add("worker", WORKER)
        self.add("in", b"given\n")
        result = self.init_data["result_name"]
        self.out, self.result = self.link("out", f"{result}_0"), self.link("result", f"{result}_1")

    def add_image_file(self, path: Path) -> None:
        logical = "image.json" if path.name == "manifest.json" else path.name
        physical = PHYSICAL.format(name=path.name)
        if not (self.project / physical).exists():
            shutil.copyfile(path, self.project / physical)
        self.link(logical, physical)

    def job(self, words: str, *, checkpoint_s: float = 3600, more: str = "") -> None:
        """Have one task."""
        task = TASK.format(words=words, checkpoint_s=checkpoint_s, more=more)
        self.add("job.xml", f"<job_desc>{task}</job_desc>".encode())

    def vbox_job(self, script: str, tags: str) -> None:
        """Have a job of vboxwrapper's, whose program this is."""
        self.add("vbox_job.xml", f"<vbox_job><enable_shared_directory/>{tags}</vbox_job>".encode())
        self.add("shared/boinc_app", f"#!/bin/sh\n{script}\n".encode())
        self.link("shared/late", "task_1_late")

    def run(self, *words: str) -> None:
        """Start the agent."""
        self.start([*AGENT, *words], {**os.environ, "PYTHONPATH": str(ROOT)})

    def until_done(self, fraction: float, patience_s: float = 120.0) -> None:
        self.until(lambda: self.last("fraction_done") >= fraction, f"{fraction} is done", patience_s)

    def events(self) -> list[str]:
        return [line for line in self.out.read_text().splitlines() if line.startswith("event")]

    def machines(self) -> set[int]:
        """Find the processes of virtual machines of this slot."""
        found = set()
        for stat in all_processes():
            if stat.is_dead:
                continue
            try:
                words = Path(f"/proc/{stat.pid}/environ").read_bytes()
            except OSError:
                continue
            if b"VOLCLOUD_VM=" + os.fsencode(self.slot) + b"/" in words:
                found.add(stat.pid)
        return found
