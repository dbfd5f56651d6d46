"""Control groups on a tree of plain files: which limits are written where, and whose books are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_agent import cgroup
from guest_agent.causes import what_the_vm_lacked, why_it_ended
from guest_agent.cgroup import Figures, SlotGroup, memory_for_jobs, own_groups
from guest_agent.payload import PayloadEnd

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked for control groups")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root group with what the kernel puts into each new group."""
    make = cgroup._make

    def made(path: Path) -> None:
        make(path)
        for name in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.kill", "cgroup.procs", "memory.max"):
            (path / name).touch()
        for name in ("memory.oom.group", "pids.max", "cpu.max", "cpu.weight"):
            (path / name).touch()
        (path / "cgroup.controllers").write_text("cpu memory pids\n")

    monkeypatch.setattr(cgroup, "_make", made)
    made(tmp_path)
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


@as_root
def test_all_jobs_together_leave_the_agent_its_memory_and_starters_take_nothing_of_theirs(tree: Path) -> None:
    given = memory_for_jobs(1000 << 20, slots=2)
    jobs = own_groups(given, tree, tree / "own")

    assert given == (1000 - 100 << 20) - 2 * cgroup.STARTER_BYTES - cgroup.MINDERS_BYTES
    assert jobs == tree / "jobs"
    assert (tree / "jobs" / "memory.max").read_text() == str(given)
    group = SlotGroup(jobs / "slot-0")
    assert (group.job, group.starter) == (tree / "jobs" / "slot-0", tree / "starters")
    assert group.starter.is_dir()


@as_root
@pytest.mark.parametrize("own", ["0::/user.slice\n", "4:memory:/\n0::/\n"])
def test_a_machine_that_is_not_the_agents_own_is_left_alone(tree: Path, own: str) -> None:
    (tree / "own").write_text(own)

    assert own_groups(1 << 30, tree, tree / "own") is None
    assert not (tree / "jobs").exists()


@as_root
def test_a_kernel_without_what_is_needed_gives_none(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpu\n")

    assert own_groups(1 << 30, tree, tree / "own") is None


def test_a_jobs_limits_are_its_groups_and_its_figures_read_there(tree: Path) -> None:
    group = SlotGroup(tree / "jobs" / "slot-0")
    (tree / "jobs").mkdir()
    group.begin(memory_bytes=64 << 20, cpus=2)
    (group.job / "memory.peak").write_text("4096\n")
    (group.job / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    (group.job / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group.job / "pids.events").write_text("max 7\n")

    figures = group.figures()

    assert (group.job / "memory.max").read_text() == str(64 << 20)
    assert (group.job / "cpu.max").read_text() == "200000 100000"
    assert (figures.cpu_seconds, figures.peak_bytes, figures.oom_kills, figures.forks_refused) == (2.5, 4096, 1, 7)
    assert figures.ooms == 3


def test_a_kernel_that_keeps_no_peak_gives_none(tree: Path) -> None:
    group = SlotGroup(tree / "jobs" / "slot-0")
    (tree / "jobs").mkdir()
    group.begin(memory_bytes=0, cpus=0)

    assert group.figures().peak_bytes == 0
    assert (group.job / "memory.max").read_text() == ""


def ended(**figures: int) -> PayloadEnd:
    books = Figures(cpu_seconds=0.1, peak_bytes=9 << 20, **figures)
    return PayloadEnd(exit_status=137, signal=9, wall_seconds=1.0, timed_out=False, figures=books)


def test_who_is_over_its_own_promise_of_memory_is_to_blame_for_that() -> None:
    over = ended(oom_kills=1, ooms=1)

    assert what_the_vm_lacked(over, memory_bytes=64 << 20) == ""
    assert "it was at the limit of 64 MiB" in why_it_ended(over, memory_bytes=64 << 20, full="")


def test_who_was_within_its_promise_when_all_together_ran_out_is_not() -> None:
    said = what_the_vm_lacked(ended(oom_kills=1), memory_bytes=64 << 20)

    assert "within its 64 MiB" in said


@pytest.mark.parametrize(("figures", "memory_bytes"), [({"oom_kills": 1}, 0), ({}, 64 << 20)])
def test_who_was_promised_nothing_or_was_ended_by_no_kernel_cannot_say_so(
    figures: dict[str, int], memory_bytes: int
) -> None:
    assert what_the_vm_lacked(ended(**figures), memory_bytes=memory_bytes) == ""
