"""What the demo's job is made of: its files, the generator's wheel, and a run of it without any of us."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path

from volcloud.demo.commands import run_python
from volcloud.demo.place import DemoPlace, example

GENERATOR = "pythia8mc==8.317.2"
WHEEL = "pythia8mc-8.317.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
#: Of seed 1 and 1,000 events, on every machine; stands in where this Python cannot load the wheel.
KNOWN_MEAN = 20.388

_ONLY = ("--no-deps", "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64")


async def provide_wheel(cache: Path) -> Path:
    """Give the generator's wheel, from the cache or from PyPI. Raises CommandFailed."""
    wheel = cache / WHEEL
    if not wheel.is_file():
        fresh = cache / "fresh"
        fresh.mkdir(parents=True, exist_ok=True)
        await run_python(["-m", "pip", "download", "--quiet", *_ONLY, f"--dest={fresh}", GENERATOR], fresh)
        (fresh / WHEEL).replace(wheel)
    return wheel


def lay_out(place: DemoPlace, wheel: Path) -> Path:
    """Put the job's files into one directory, as a submitter has them, and give its description."""
    place.job.mkdir(parents=True, exist_ok=True)
    for name in ("job.toml", "generate.py", "merge.py"):
        shutil.copyfile(example() / name, place.job / name)
    shutil.copyfile(wheel, place.job / wheel.name)
    return place.job / "job.toml"


def can_run_natively() -> bool:
    """Say whether this Python loads the wheel."""
    return sys.version_info[:2] == (3, 11) and platform.machine() == "x86_64"


async def native_mean(place: DemoPlace, wheel: Path) -> float:
    """Run seed 1 here, without a VM or a broker, and give its mean. Raises CommandFailed."""
    place.native.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(wheel, place.native / wheel.name)
    await run_python([str(place.job / "generate.py"), "--seed", "1", "--events", "1000"], place.native)
    result = json.loads((place.native / "result.json").read_text())
    return float(result["sum"] / result["events"])


async def merge(place: DemoPlace) -> str:
    """Merge the results of all jobs; give what the program says. Raises CommandFailed."""
    results = sorted(str(path) for path in place.results.glob("*/result.json"))
    outputs = ["--json", str(place.merged), "--png", str(place.picture)]
    return await run_python([str(place.job / "merge.py"), *results, *outputs], place.job)
