"""What people see who feed a spool, and what a spool that is away, or another one in its place, does to their jobs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest

from adapters.errors import SourceUnavailable
from adapters.sources.contract import GridOutput
from adapters.sources.spool import SpoolSource
from schemas.ledger import JobState
from tests.contract.test_grid_sources import MACHINE, OFFER, TRUE, Spooled, ending, one, progress


@pytest.fixture(autouse=True)
def strict_umask() -> object:
    """As the adapters of a system have it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def told(grid: Spooled, name: str) -> str:
    return (grid.directory / f"new/{name}.refused").read_text().strip()


def test_a_spool_in_anothers_place_stops_no_job_and_hears_of_none(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    grid.submit(TRUE)
    job = one(grid.source()).job
    grid.directory.rename(tmp_path / "away")
    started_anew = grid.source()

    for call in (lambda: started_anew.beat([progress(job)]), lambda: started_anew.stage_out(ending(job), Path)):
        with pytest.raises(SourceUnavailable, match=f"another spool than that of job {job.id}: put that one back"):
            call()
    refused = started_anew.finish([ending(job)])
    in_its_place = [str(path) for path in grid.directory.rglob("*.json")]
    grid.directory.rename(tmp_path / "other")
    (tmp_path / "away").rename(grid.directory)

    assert "put that one back" in refused[job.id]
    assert in_its_place == []
    assert list(started_anew.beat([progress(job)])) == []
    assert (started_anew.finish([ending(job)]), grid.finals()) == ({}, [("job-1", "done")])


def test_where_another_spool_has_jobs_too_they_are_stopped_as_always(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    grid, other = Spooled(tmp_path / "a"), Spooled(tmp_path / "b")
    for each in (grid, other):
        each.submit(TRUE)
    foreign, source = one(other.source()).job, grid.source()
    own = one(source).job
    grid.kill(own)

    assert [stop.id for stop in source.beat([progress(foreign), progress(own)])] == [own.id]


def test_a_spool_that_cannot_be_made_is_trouble_and_no_end(tmp_path: Path) -> None:
    source = SpoolSource(tmp_path / "not" / "there")

    with pytest.raises(SourceUnavailable, match=r"not/there: No such file or directory"):
        source.acquire([OFFER], 1)
    (tmp_path / "not").mkdir()

    assert list(source.acquire([OFFER], 1)) == []


def test_adapters_that_begin_at_once_make_one_spool(tmp_path: Path) -> None:
    sources: list[SpoolSource] = []
    together = threading.Barrier(8)

    def make() -> None:
        together.wait(30)
        sources.append(SpoolSource(tmp_path / "spool"))

    threads = [threading.Thread(target=make, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len({source._tree.mark() for source in sources}) == 1
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [
        ".spool", "done", "files", "new", "out", "taken"
    ]  # fmt: skip


def test_whoever_may_enter_a_spool_may_read_what_is_told_there(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source, output = grid.source(), tmp_path / "numbers"
    output.write_text("1\n")
    for _ in range(2):
        grid.submit(TRUE)
    job = one(source).job
    source.beat([progress(job)])
    (grid.directory / "new/job-1.json").write_text("{}")
    source.acquire([OFFER], 5)
    left = [GridOutput(name=name, size=2, sha256="0" * 64) for name in ("numbers", "below/numbers")]
    source.stage_out(ending(job, outputs=left), lambda name: output)
    modes = {path: path.stat().st_mode & 0o777 for path in grid.directory.rglob("*") if path.suffix != ".json"}
    source.finish([ending(job)])

    assert {path.name for path in modes} >= {"job-1.status", "job-1.refused", "numbers", "below", "out"}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o755}
    assert {mode for path, mode in modes.items() if not path.is_dir()} == {0o644}
    assert (grid.directory / "done/job-1.json").stat().st_mode & 0o777 == 0o644
    assert grid.directory.stat().st_mode & 0o777 == 0o700, "who may enter it, its owner says"


def test_a_job_that_no_free_machine_can_do_is_told_what_is_lacking_until_it_is_taken(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source, new = grid.source(), grid.directory / "new/big.json"
    new.write_text(json.dumps({"executable": "/bin/true", "requirements": {"memory_mib": 100_000}}))

    given = list(source.acquire([OFFER], 5))
    words = told(grid, "big")
    large = OFFER._replace(machine=msgspec.structs.replace(MACHINE, memory_mib=200_000))

    assert given == []
    assert words == "it waits for another machine: memory_mib = 100000: the VM has 2048"
    assert len(source.acquire([large], 5)) == 1
    assert list(new.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["bad.name", "ä", "-x", "x" * 81])
def test_a_file_whose_name_no_job_may_have_is_told_so(tmp_path: Path, name: str) -> None:
    grid = Spooled(tmp_path)
    (grid.directory / f"new/{name}.json").write_text('{"executable": "/bin/true"}')
    (grid.directory / "new/.on-its-way.json").write_text("{")

    assert list(grid.source().acquire([OFFER], 5)) == []
    assert told(grid, name).startswith("a job's name has letters, digits, - and _")
    assert not (grid.directory / "new/.on-its-way.refused").exists()


WRONG = {
    '{"executable": "x", "argments": []}': "unknown key 'argments': did you mean 'arguments'?",
    '{"executable": "x", "requirements": {"memory_mib": -1}}': "requirements.memory_mib = -1: must be",
    "{}": "executable",
    '{"executable": 7}': "executable = 7: must be",
}


@pytest.mark.parametrize("content", WRONG)
def test_what_is_wrong_with_a_job_file_is_said_with_field_and_value(tmp_path: Path, content: str) -> None:
    grid = Spooled(tmp_path)
    (grid.directory / "new/wrong.json").write_text(content)

    assert WRONG[content] in one(grid.source()).flaw


def test_outputs_that_a_job_has_not_left_are_named(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    wanted = ["numbers.txt", "nothing.txt", "*.root", "*.none"]
    (grid.directory / "new/count.json").write_text(json.dumps({"executable": "/bin/true", "outputs": wanted}))
    source = grid.source()
    left = [GridOutput(name=name, size=0, sha256="0" * 64) for name in ("stdout", "numbers.txt", "a.root")]

    source.finish([ending(one(source).job, JobState.DONE, outputs=left)])

    final = json.loads((grid.directory / "done/count.json").read_text())
    assert (final["state"], final["missing"]) == ("done", ["nothing.txt", "*.none"])
