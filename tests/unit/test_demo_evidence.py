"""What the demo insists on: each check fails for its own reason and for no other."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from schemas.description import JobDescription
from schemas.ids import uuid7
from schemas.jobs import Steps as AttemptSteps
from schemas.ledger import AttemptRow, JobRecord, JobRow, JobState
from volcloud.demo import evidence
from volcloud.demo.evidence import Seen

GUEST, HOST = "11111111-guest", "22222222-host"


def record(index: int, *, state: JobState = JobState.DONE, boot_id: str = GUEST, pid: int = 4711) -> JobRecord:
    job = f"console-operator/z-decays.{index}"
    attempt = AttemptRow(
        attempt=1,
        state="done",
        vm="vm-1",
        vm_name="worker-1",
        host="host-1",
        boot_id=boot_id,
        hypervisor_pid=pid,
        assigned_ms=3000,
        steps=AttemptSteps(stage_in_s=1.5, run_s=4.0, stage_out_s=0.25),
    )
    return JobRecord(
        call=uuid7(),
        job=JobRow(number=index, job=job, state=state, attempt=1, submitted_ms=1000),
        description=JobDescription(id="z-decays", executable="python3"),
        attempts=[attempt],
    )


def seen(**changes: Any) -> Seen:
    fields: dict[str, Any] = {
        "records": [record(index) for index in (1, 2, 3, 4)],
        "merged": {"events": 4000, "mean": 20.62, "means": {"1": 20.388, "2": 20.5}},
        "native_mean": 20.388,
        "hypervisor": "qemu",
        "host_boot_id": HOST,
        "live_pids": frozenset({4711}),
    }
    return Seen(**(fields | changes))


def unmet(what: Seen) -> list[str]:
    return [check.name for check in evidence.checks(what) if not check.is_met]


def test_a_good_run_convinces() -> None:
    assert unmet(seen()) == []
    assert evidence.is_convincing(seen())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"merged": {"events": 3000, "mean": 20.62, "means": {"1": 20.388}}}, "4,000 events merged"),
        ({"merged": {"events": 4000, "mean": 21.0, "means": {"1": 20.388}}}, "mean within 0.5 of 20.5"),
        ({"native_mean": 20.389}, "seed 1 as in a native run"),
        ({"records": [record(1, state=JobState.HELD)]}, "every job is done"),
        ({"records": [record(1), record(2, boot_id=HOST)]}, "each ran under a kernel of its guest's"),
        ({"records": [record(1), record(2, boot_id="")]}, "each ran under a kernel of its guest's"),
        ({"records": [record(1), record(2, pid=99)]}, "each ran in a QEMU process"),
    ],
)
def test_each_flaw_is_named(changes: dict[str, Any], name: str) -> None:
    assert unmet(seen(**changes)) == [name]


def test_no_records_convince_nobody() -> None:
    assert not evidence.is_convincing(seen(records=[]))


def test_the_process_driver_is_not_asked_for_virtual_machines() -> None:
    assert unmet(seen(hypervisor="process", records=[record(1, boot_id=HOST, pid=0)])) == []


def test_the_table_shows_where_each_job_ran_and_how_long_its_steps_took() -> None:
    console = Console(width=200, file=StringIO())

    console.print(evidence.places_table([record(1)], {"means": {"1": 20.388}}))

    line = console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined]
    assert line.split() == [
        "z-decays.1",
        "20.388",
        "worker-1",
        "host-1",
        "11111111",
        "4711",
        "2.0",
        "1.5",
        "4.0",
        "0.2",
    ]
