"""Job files of all three kinds that make little sense: nothing is raised but our error, with tag and line, and soon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.unit.test_boinc_job_xml import slowest_of_fuzzed

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

FILES, A_ROUND = int(os.environ.get("VOLCLOUD_FUZZ_FILES", "100000")), 1000
SEED = int(os.environ.get("VOLCLOUD_FUZZ_SEED", str(time.time_ns() % 10**6)))
#: Of processor time, for one file.
MOST_S = 0.05


def test_100000_files_are_read_or_refused_each_within_50_ms(record_property: Callable[[str, object], None]) -> None:
    record_property("seed", SEED)

    slowest_s = max(slowest_of_fuzzed(SEED + number, A_ROUND) for number in range(FILES // A_ROUND))

    record_property("files", FILES)
    record_property("slowest", f"{slowest_s * 1000:.1f} ms")
    assert slowest_s < MOST_S
