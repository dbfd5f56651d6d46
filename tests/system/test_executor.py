"""Python calls in guests: results and exceptions come home, cancelled ones end, and nothing is left at the centre."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import pytest_timeout

from schemas.ledger import JobState
from tests.system.running import System, running, until
from volcloud.errors import BadInput, CallFailed, PythonDiffers, RemoteTraceback
from volcloud.executor import VolunteerExecutor, call_files
from volcloud.executor.dispatch import STILL_S

PATIENCE_S = 120.0


class Boom(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.loud = True


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as one:
        yield one


@pytest.fixture
def pool(system: System) -> Iterator[VolunteerExecutor]:
    with VolunteerExecutor(system.directory) as one:
        yield one
    with system.client() as client:
        until(lambda: len(client.jobs.list()) == 0, "its jobs are deleted", PATIENCE_S)


def square(x: int) -> int:
    return x * x


def raises() -> None:
    raise Boom("here")


def leaves() -> None:
    os._exit(3)


def processes() -> list[bytes]:
    """Find the calls that run on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return [words for words in found if b"call.pyz" in words and b"python3" in words]


def test_a_sum_of_a_map_and_many_results_in_order(pool: VolunteerExecutor) -> None:
    assert sum(pool.map(square, range(100))) == 328350
    assert [*pool.map(pow, [2, 3], [5, 2], chunksize=1, timeout=PATIENCE_S)] == [32, 9]
    assert [*pool.map(square, [])] == []


def test_calls_given_one_by_one_travel_together(pool: VolunteerExecutor, system: System) -> None:
    futures = [pool.submit(square, number) for number in range(5)]

    assert {future.result(0) for future in as_completed(futures, PATIENCE_S)} == {0, 1, 4, 9, 16}


def test_an_exception_keeps_its_type_what_it_knows_and_where_it_was_raised(pool: VolunteerExecutor) -> None:
    with pytest.raises(Boom, match="here") as raised:
        pool.submit(raises).result(PATIENCE_S)

    assert raised.value.loud
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "in raises" in str(raised.value.__cause__)


def test_a_closure_of_ten_megabytes_travels(pool: VolunteerExecutor) -> None:
    large = os.urandom(10_000_000)

    assert [*pool.map(lambda n: large[n], range(3))] == [*large[:3]]


def test_one_that_runs_is_cancelled_and_ends(pool: VolunteerExecutor) -> None:
    future = pool.submit(time.sleep, 3000)
    until(processes, "it runs", PATIENCE_S)

    assert future.cancel()
    began_s = time.monotonic()
    until(lambda: not processes(), "it has ended", PATIENCE_S)
    print(f"ended {time.monotonic() - began_s:.2f} s after its cancel")
    assert wait([future], 0).not_done == set()


def test_who_stops_taking_results_cancels_the_rest(pool: VolunteerExecutor) -> None:
    results = pool.map(time.sleep, [0, 3000, 3000, 3000], chunksize=1)
    assert next(results) is None
    until(processes, "others run", PATIENCE_S)
    results.close()  # type: ignore[attr-defined]  # a generator's

    until(lambda: not processes(), "no call is left", PATIENCE_S)
    assert [*results] == []


def test_a_call_that_takes_its_process_along_is_told_with_its_exit_status(pool: VolunteerExecutor) -> None:
    with pytest.raises(CallFailed, match=r"job .*calls-\S+\.1 is held: .*3") as failed:
        pool.submit(leaves).result(PATIENCE_S)

    assert failed.value.next_step


def test_one_that_needs_what_is_not_in_the_guest_says_so(pool: VolunteerExecutor) -> None:
    from_here = cloudpickle.Pickler  # of a library that no guest has under this name

    with pytest.raises(ModuleNotFoundError, match="pytest_timeout"):
        pool.submit(isinstance, pytest_timeout.Settings, from_here).result(PATIENCE_S)


def test_a_job_that_somebody_deletes_ends_its_call(pool: VolunteerExecutor, system: System) -> None:
    future = pool.submit(time.sleep, 3000)
    until(processes, "it runs", PATIENCE_S)
    with system.client() as client:
        job = client.jobs.list()[0].job
        client.jobs.cancel(job)
        client.jobs.delete(job)

    with pytest.raises(CallFailed, match=r"is not at the centre any more|is cancelled"):
        future.result(PATIENCE_S)


def test_somebody_who_cannot_be_told_holds_nothing_up(system: System) -> None:
    def say(text: str) -> None:
        raise BrokenPipeError

    with VolunteerExecutor(system.directory, say=say, requirements={"memory_mib": 10**8}) as pool:
        future = pool.submit(square, 1)
        with pytest.raises(TimeoutError):
            future.result(STILL_S + 2)
        future.cancel()


def test_a_result_that_cannot_travel_is_named(pool: VolunteerExecutor) -> None:
    with pytest.raises(CallFailed, match=r"stays in the guest: a builtins\.object cannot travel home"):
        pool.submit(object).result(PATIENCE_S)


def test_another_python_in_the_guest_is_refused_with_both_versions(
    pool: VolunteerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = call_files.lay_out
    monkeypatch.setattr(call_files, "lay_out", lambda *a, **k: ours(*a, **k).replace(b'"python": [3', b'"python": [2'))

    with pytest.raises(PythonDiffers, match=r"Python is 3\.\d+\.\d+ in the guest and 3\.\d+\.\d+ here"):
        pool.submit(square, 1).result(PATIENCE_S)


def test_files_come_along_and_can_be_imported(system: System, tmp_path: Path) -> None:
    (tmp_path / "of_mine.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "words").write_text("of a file")

    def look() -> tuple[int, str]:
        import of_mine  # type: ignore[import-not-found]

        return of_mine.twice(21), Path("words").read_text()

    with VolunteerExecutor(system.directory, files=[tmp_path / "of_mine.py", tmp_path / "words"]) as pool:
        assert pool.submit(look).result(PATIENCE_S) == (42, "of a file")


def test_of_guests_that_are_trusted_anything_comes(system: System) -> None:
    with VolunteerExecutor(system.directory, trust_guests=True) as pool:
        assert pool.submit(lambda: square).result(PATIENCE_S)(7) == 49


def test_what_no_vm_can_take_is_told_and_can_be_given_up(system: System) -> None:
    said: list[str] = []
    pool = VolunteerExecutor(system.directory, requirements={"memory_mib": 10**8}, say=said.append)
    try:
        pool.submit(square, 1)
        until(lambda: any("memory" in one for one in said), f"why it waits is said, and not {said}", 30)
    finally:
        pool.shutdown(cancel_futures=True)
    with system.client() as client:
        assert len(client.jobs.list()) == 0


def test_what_the_centre_refuses_and_what_cannot_be_is_told(system: System, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="memory_mib"):
        VolunteerExecutor(system.directory, requirements={"memory": 1})
    with pytest.raises(BadInput, match="environment"):
        VolunteerExecutor(system.directory, environment=["A=1"])  # type: ignore[arg-type]
    with VolunteerExecutor(system.directory, most_result_mib=0.5) as pool:
        with pytest.raises(CallFailed, match=r"cannot be brought home: .* at most 524288 are taken"):
            pool.submit(bytes, 1 << 20).result(PATIENCE_S)
        with pytest.raises(ValueError, match="chunksize = 0"):
            pool.map(square, [1], chunksize=0)
    with system.client() as client:  # it stays, to be fetched as the error says
        (left,) = client.jobs.list()
        assert client.jobs.fetch(str(left.job), tmp_path)
        client.jobs.delete(str(left.job).rpartition(".")[0])
    for give in (lambda: pool.submit(square, 1), lambda: pool.map(square, [1])):
        with pytest.raises(RuntimeError, match="shut down"):
            give()
    with pytest.raises(BadInput, match="is no file"):
        VolunteerExecutor(system.directory, files=[tmp_path / "none"])


def test_its_end_waits_for_what_runs_or_cancels_it(system: System) -> None:
    pool = VolunteerExecutor(system.directory, keep=True)
    slow: Future[Any] = pool.submit(lambda: time.sleep(1) or 5)
    endless: Future[Any] = pool.submit(time.sleep, 3000)
    done, _ = wait([slow, endless], PATIENCE_S, FIRST_COMPLETED)
    assert done == {slow}
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()

    assert (slow.result(0), endless.cancelled()) == (5, True)
    with system.client() as client:
        until(lambda: _states(client.jobs.list()) == ["cancelled", "done"], "one is kept as it ended", PATIENCE_S)
        client.jobs.delete(str(client.jobs.list()[0].job).rpartition(".")[0])


def _states(rows: Any) -> list[str]:
    return sorted(str(JobState(row.state)) for row in rows)
