"""Tables at few columns: names stay apart, words are folded, and what a list leaves out is said below it."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as some

from schemas.ledger import JobRow, Jobs, JobState, RegistryRow
from schemas.vms import VmAct, VmState, VmStatus
from volcloud.listing import Listing, cut
from volcloud.rendering.jobs import render_jobs
from volcloud.rendering.vms import render_vms
from volcloud.screen import Screen


def shown(listing: object, width: int, *, is_terminal: bool = True) -> list[str]:
    screen = Screen(width=width)
    screen._force_terminal = is_terminal
    screen.no_color = True
    screen.file = io.StringIO()
    screen.print(listing)
    return screen.file.getvalue().splitlines()


def jobs(*names: str, total: int = 0) -> Jobs:
    rows = [
        JobRow(
            number=n,
            job=name,
            state=JobState.HELD,
            attempt=1,
            vm=f"vm-30c8476a36fcc6d76c4{n}",
            reason="payload ended with 3 after a long time",
        )
        for n, name in enumerate(names)
    ]
    return Jobs(call="c", jobs=rows, counts={"held": total or len(rows)})


def test_at_80_columns_two_jobs_of_a_submission_never_look_alike() -> None:
    names = [f"console-operator/a-very-long-name-of-a-submission-of-mine.{n}" for n in range(1, 12)]

    lines = [line for line in shown(render_jobs(jobs(*names)), 80) if "…" in line]

    assert len({line.split()[0] for line in lines}) == len(names)
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("cons") and "mine.11 " in line for line in lines)


def test_at_80_columns_two_vms_of_a_host_never_look_alike() -> None:
    rows = [
        RegistryRow(
            host="host-32ca855ab0d82e687153",
            seen_ms=1,
            status=VmStatus(
                vm=f"vm-3ca855ab0d82e687153{n}",
                name=f"atlas-production-{n}-worker",
                state=VmState.RUNNING,
                generation=1,
                hypervisor="qemu",
                cpus=1,
                memory_mib=768,
                disk_mib=1,
            ),
        )
        for n in range(3)
    ]

    firsts = [line.split()[0] for line in shown(render_vms(rows), 80) if line.startswith("vm")]

    assert len(firsts) == len(set(firsts)) == 3


def test_what_is_being_done_to_a_vm_stands_beside_its_state() -> None:
    vm = VmStatus(
        vm="vm-1",
        name="worker-1",
        state=VmState.RUNNING,
        generation=1,
        hypervisor="qemu",
        cpus=1,
        memory_mib=768,
        disk_mib=1,
        act=VmAct(verb="savestate", for_s=12.3, by="console-ada", percent=40),
    )

    assert "running, savestate 40 % for 12 s" in " ".join(
        shown(render_vms([RegistryRow(host="host-1", seen_ms=1, status=vm)]), 200)
    )


def test_into_a_pipe_names_go_whole() -> None:
    name = f"console-operator/{'x' * 120}.1"

    assert any(name in line for line in shown(render_jobs(jobs(name)), 80, is_terminal=False)) or name in "".join(
        line.split()[0] for line in shown(render_jobs(jobs(name)), 80, is_terminal=False) if line.strip()
    )


def test_what_a_list_leaves_out_is_said_below_it() -> None:
    below = shown(render_jobs(jobs("a/b.1", "a/b.2", total=2000)), 100)[-1]

    assert below == "2 of 2,000 shown, the newest: 2,000 held; --limit shows more"
    assert shown(render_jobs(jobs("a/b.1", "a/b.2")), 100)[-1] == "2 held"


@given(some.sets(some.text("abc-./", min_size=1, max_size=60), min_size=1, max_size=6), some.integers(20, 120))
def test_names_that_differ_look_different_at_any_width(names: set[str], width: int) -> None:
    listing = Listing("JOB", "REASON", "VM")
    for name in sorted(names):
        listing.add_row(name, "some words about it", f"vm-{name}")

    columns = listing._table(width, mark="…", cuts=True).columns

    for column in (columns[0], columns[2]):
        assert len({str(cell) for cell in column.cells} - {column.header}) == len(names)


def test_a_name_is_cut_in_its_middle_and_keeps_more_of_its_end() -> None:
    assert cut("console-operator/hello-1.12", 16) == "conso…hello-1.12"
    assert cut("short", 16) == "short"
