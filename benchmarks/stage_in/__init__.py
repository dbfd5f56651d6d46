"""How long an input takes into the second VM of a host, emulated by QEMU: from the host, and from the centre.

``python -m benchmarks stage_in``: seconds from the assignment until the payload runs, with a host that keeps inputs and
with one that keeps none, in turns. One VM holds a job with that input already; the next job goes to the other one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.alternation import alternate, say
from benchmarks.figures import Figure
from schemas.ids import uuid7
from schemas.ledger import JobState
from volcloud import Client

#: As the generator of the physics example.
INPUT_BYTES = 29_000_000
#: The most that it may take from the host, as a part of what it takes from the centre.
GOAL = 0.2
RUNS, QUICK_RUNS = 3, 1
_PATIENCE_S = 600.0


def run(*, quick: bool) -> list[Figure]:
    """Measure in turns, each on a system of its own; the ratio is the median of neighbouring runs'."""
    with _system("host", mib=4096) as host, _system("centre", mib=0) as centre:
        contestants = {"host": partial(_one, *host), "centre": partial(_one, *centre)}
        reached = alternate(contestants, QUICK_RUNS if quick else RUNS, "s")
    ratios = [ours / others for ours, others in zip(reached["host"], reached["centre"], strict=True)]
    return [
        Figure(name="stage-in, 29 MB from the host", unit="s", ours=reached["host"]),
        Figure(name="stage-in, 29 MB from the centre", unit="s", ours=reached["centre"]),
        Figure(name="stage-in, host by centre", unit="x", ours=(median(ratios),), goal=GOAL),
    ]


@contextmanager
def _system(what: str, *, mib: int) -> Iterator[tuple[Client, Path]]:
    """Have two VMs on a host that keeps so many MiB of inputs."""
    say(f"stage-in from the {what}: booting two VMs …")
    with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as directory:
        up = ["up", "--data", directory, "--hypervisor", "qemu", "--vms", "2", "--set", f"host_inputs_mib={mib}"]
        try:
            _volcloud(*up, "--detach")
            with Client.connect(directory) as client:
                yield client, Path(directory)
        finally:
            _volcloud("down", "--data", directory)


def _volcloud(*words: str) -> None:
    command = [sys.executable, "-m", "volcloud.main", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_PATIENCE_S)


def _one(client: Client, directory: Path) -> float:
    """Let one VM have a new file, and then the other; give how long that one took."""
    run = uuid7()[-12:]
    file = directory / f"input-{run}"
    file.write_bytes(os.urandom(INPUT_BYTES))
    _submit(client, directory, f"holder-{run}", file, "sleep 3600")
    _await_running(client, f"holder-{run}.1")
    _submit(client, directory, f"second-{run}", file, "true")
    client.jobs.wait(f"second-{run}", timeout_s=_PATIENCE_S)
    client.jobs.cancel(f"holder-{run}")
    client.jobs.wait(f"holder-{run}", timeout_s=_PATIENCE_S)
    steps = client.jobs.show(f"second-{run}.1").attempts[-1].steps
    return steps.wait_s + steps.stage_in_s


def _await_running(client: Client, job: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while client.jobs.show(job).job.state != JobState.RUNNING:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job} does not run after {_PATIENCE_S:g} s")
        time.sleep(0.2)


def _submit(client: Client, directory: Path, name: str, file: Path, script: str) -> None:
    job = directory / f"{name}.toml"
    job.write_text(
        f'id = "{name}"\nexecutable = "/bin/sh"\narguments = ["-c", "{script}"]\nwall_time_s = 7200\n'
        f'inputs = [{{ name = "data", path = "{file}" }}]\n'
    )
    client.jobs.submit(job)
