"""The physics example's generator in a guest under BOINC, beside the same job of the same image through a centre.

Events per second of the program's own clock, so that neither the boot of a machine nor the way of an input is in the
figures; what checkpoints cost is a figure of its own. Each job has a machine that is new, on both sides. Emulated where
there is no KVM.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.boinc.slot import IMAGE_CACHE, ROOT, with_image
from benchmarks.figures import Figure
from benchmarks.jobs.ours import system
from deploy.image.build import Request, build
from host_agent.boinc.fake_client import FakeClient
from schemas.ids import uuid7
from volcloud import Client
from volcloud.centre.guest_image import cache_directory
from volcloud.demo.material import WHEEL, provide_wheel

#: Of one run, and of a quick one.
EVENTS, QUICK_EVENTS = 1000, 300
#: A run that takes longer has failed, seconds.
_PATIENCE_S = 900.0
#: The VM that a system has of itself.
_FIRST = "worker-1"
_PROGRAM = ROOT / "examples" / "pythia" / "generate.py"
_JOB = """<job_desc><task><virtualmachine>guest</virtualmachine><application>python3</application>
<command_line>generate.py --seed 1 --events {events} --fraction fraction</command_line>
<copy_file_to_VM>generate.py</copy_file_to_VM><copy_file_to_VM>{wheel}</copy_file_to_VM>
<copy_file_from_VM>result.json</copy_file_from_VM><fraction_done_filename>fraction</fraction_done_filename>
</task></job_desc>"""


def run(command: list[str], *, runs: int, quick: bool) -> list[Figure]:
    """Measure in turns, both machines of one processor and 512 MiB."""
    events = QUICK_EVENTS if quick else EVENTS
    wheel = asyncio.run(provide_wheel(cache_directory() / "wheels"))
    with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as name:
        home = Path(name)
        manifest = build(Request(output=home / "image", cache=IMAGE_CACHE))
        with system(home / "system", hypervisor="qemu", vms=1) as data, Client.connect(data) as client:
            _remove(client, _FIRST)
            contestants = {
                "boinc": partial(_under_boinc, home, manifest, wheel, command, events),
                "centre": partial(_by_centre, client, home, wheel, events),
            }
            reached = alternate(contestants, runs, "events/s")
    return [
        Figure(
            name="boinc generator, beside a centre",
            unit="events/s",
            ours=reached["boinc"],
            peer=reached["centre"],
            goal=0.97,
        )
    ]


def _under_boinc(home: Path, manifest: Path, wheel: Path, command: list[str], events: int) -> float:
    with tempfile.TemporaryDirectory(dir=home) as place:
        client = FakeClient(Path(place) / "client", ncpus=1)
        with_image(client, manifest)
        client.add("job.xml", _JOB.format(events=events, wheel=WHEEL).encode())
        client.add("generate.py", _PROGRAM.read_bytes())
        client.add(WHEEL, wheel.read_bytes())
        result = client.link("result.json", "task_1_0")
        client.start_from(ROOT, command)
        try:
            client.end(_PATIENCE_S)
            return _rate(result, events)
        except FileNotFoundError as error:
            raise RuntimeError(f"the task has left no result:\n{client.stderr}") from error
        finally:
            client.give_up()


def _by_centre(client: Client, home: Path, wheel: Path, events: int) -> float:
    job, place = f"generator-{uuid7()[-12:]}", home / "fetched"
    client.jobs.submit(
        {
            "id": job,
            "executable": "python3",
            "arguments": ["generate.py", "--seed", "1", "--events", str(events), "--fraction", "fraction"],
            "inputs": [{"name": "generate.py", "path": str(_PROGRAM)}, {"name": WHEEL, "path": str(wheel)}],
            "outputs": [{"name": "result.json"}],
        }
    )
    client.vms.create(vm := f"fresh-{job}", memory_mib=512)
    client.vms.start(vm)
    client.jobs.wait(job, timeout_s=_PATIENCE_S)
    _remove(client, vm)
    paths = client.jobs.fetch(f"{job}.1", place)
    try:
        return _rate(next(path for path in paths if path.name == "result.json"), events)
    finally:
        shutil.rmtree(place)


def _remove(client: Client, vm: str) -> None:
    client.vms.poweroff(vm)
    client.vms.delete(vm)


def _rate(result: Path, events: int) -> float:
    found = json.loads(result.read_bytes())
    if found["events"] != events:
        raise RuntimeError(f"{result}: {found['events']} events of {events}")
    return float(events / (found["times"]["unpack_s"] + found["times"]["generate_s"]))
