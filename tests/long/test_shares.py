"""Ten jobs of one site beside a hundred thousand of another's: they take three times as long as alone at most."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import System, running
from tests.system.site_client import SiteClient

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MASS, FEW = 100_000, 10
JOB = ("/bin/sh", "-c", "sleep 1")
#: How much longer the few may take beside the mass than alone.
MOST_TIMES = 3.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as one:
        yield one


def site(system: System, name: str, directory: Path) -> SiteClient:
    """Add a site, and speak for it."""
    login = directory / f"{name}.json"
    words = ["site", "add", name, "-o", str(login), "--data", str(system.directory)]
    subprocess.run([sys.executable, "-m", "volcloud.main", *words], check=True, capture_output=True, timeout=60)
    return SiteClient(json.loads(login.read_text()))


def time_of_few(few: SiteClient, name: str) -> float:
    """Submit the few; give how long it takes until the last has ended, seconds."""
    began = time.monotonic()
    assert few.submit(name, *JOB, array=FEW)["accepted"]
    few.ends_of(name, FEW)
    return time.monotonic() - began


def test_ten_jobs_beside_a_hundred_thousand_of_highest_priority(system: System, tmp_path: Path) -> None:
    with site(system, "mass", tmp_path) as mass, site(system, "few", tmp_path) as few:
        alone_s = time_of_few(few, "alone")
        assert mass.submit("mass", *JOB, array=MASS, priority=1000)["accepted"]
        mass.end_of("mass")
        beside_s = time_of_few(few, "beside")

    print(f"{FEW} jobs took {alone_s:.1f} s alone, {beside_s:.1f} s beside {MASS}: {beside_s / alone_s:.2f} times")
    assert beside_s <= MOST_TIMES * alone_s
