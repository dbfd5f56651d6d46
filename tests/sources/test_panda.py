"""The source of PanDA's jobs with a server in trouble: what its users' jobs come to, and in which words it is said."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from adapters.errors import SourceDenied, SourceError, SourceRefused, SourceUnavailable
from adapters.sources.contract import GridEnding, GridInput, GridJob, GridOutput, GridProgress, GridSource, Offer
from adapters.sources.panda import make_panda
from adapters.sources.panda.settings import PandaSettings
from broker.errors import ConfigError
from schemas.jobs import Machine
from schemas.ledger import JobState
from tests.sources.front import Front
from tests.sources.panda_jobs import QUEUE, SCOPE, file, job
from tests.sources.panda_played import settings_for, token_file
from tests.sources.panda_standin import PandaStandIn

MACHINE = Machine(cpus=4, memory_mib=4000, disk_mib=10_000, platform="linux-x86_64", slots=4)
OFFER = Offer(MACHINE, 4)
MANY = Offer(MACHINE, 100)
ACQUIRE, UPDATE = "POST /api/v1/pilot/acquire_jobs", "POST /api/v1/pilot/update_jobs_bulk"

Make = Callable[..., GridSource]


@pytest.fixture
def grid() -> Iterator[PandaStandIn]:
    one = PandaStandIn()
    yield one
    one.close()


@pytest.fixture
def front(grid: PandaStandIn) -> Iterator[Front]:
    one = Front(grid.url)
    yield one
    one.close()


@pytest.fixture
def make(grid: PandaStandIn, front: Front, tmp_path: Path) -> Iterator[Make]:
    made: list[GridSource] = []

    def one(name: str = "panda", **changes: Any) -> GridSource:
        usual = {"url": front.url, "storage": {"*": f"{grid.url}/storage"}, **changes}
        made.append(make_panda(settings_for(grid, tmp_path, **usual), name))
        return made[-1]

    yield one
    for source in made:
        source.close()


@pytest.fixture
def source(make: Make) -> GridSource:
    return make()


def running(one: GridJob) -> list[GridProgress]:
    return [GridProgress(job=one, state=JobState.RUNNING)]


def ended(one: GridJob, state: JobState = JobState.DONE, **more: Any) -> list[GridEnding]:
    return [GridEnding(job=one, state=state, exit_status=0, **more)]


def take(grid: PandaStandIn, source: GridSource, **more: Any) -> GridJob:
    number = grid.submit(job(**more))
    [given] = source.acquire([OFFER], 1)
    assert given.job.id == str(number)
    return given.job


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "<html><body>Welcome to the portal</body></html>", SourceUnavailable),
        (200, '{"success": true, "message": "", "data": {"StatusCode": 30}}', SourceUnavailable),
        (200, '{"success": false, "message": "Timed out", "data": null}', SourceUnavailable),
        (200, "{'success': True, 'message': '', 'data': None}", SourceUnavailable),
        (200, "", SourceUnavailable),
        (200, '{"success": false, "message": "production or pilot role required"}', SourceDenied),
        (302, "", SourceUnavailable),
        (500, "division by zero", SourceUnavailable),
        (503, "<html>busy</html>", SourceUnavailable),
        (401, "no", SourceUnavailable),
        (403, "ERROR : Token authentication failed. Invalid token.", SourceUnavailable),
        (403, "ERROR : Alice is banned", SourceDenied),
        (404, "not found", SourceDenied),
    ],
)
def test_an_answer_that_is_none_is_said_in_words(
    front: Front, source: GridSource, status: int, body: str, kind: type[SourceError], tmp_path: Path
) -> None:
    front.says(status, body, Location="http://127.0.0.1:1/elsewhere")
    one = GridJob(id="1")

    for call in (
        lambda: source.acquire([OFFER], 1),
        lambda: source.beat(running(one)),
        lambda: source.finish(ended(one)),
        lambda: source.release([one], "no room"),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert (tmp_path / "panda.token").read_text() not in str(caught.value)
        assert len(str(caught.value)) < 900
        assert str(caught.value).isprintable()


def test_a_slow_server_is_not_waited_for(front: Front, make: Make) -> None:
    source = make(timeout_s=1)
    front.delay_s = 5
    began = time.monotonic()

    with pytest.raises(SourceUnavailable, match="within 1 s"):
        source.acquire([OFFER], 1)

    assert time.monotonic() - began < 4


def test_jobs_of_an_answer_that_is_lost_stay_sent_and_nothing_else_is_hurt(
    grid: PandaStandIn, front: Front, source: GridSource
) -> None:
    lost = grid.submit(job())
    front.lost = {ACQUIRE: 1}
    with pytest.raises(SourceUnavailable):
        source.acquire([OFFER], 1)

    other = grid.submit(job())
    [given] = source.acquire([OFFER], 5)

    assert (given.job.id, grid.status(lost)) == (str(other), ("sent", 0))


def test_what_was_given_before_an_answer_was_lost_is_kept(
    grid: PandaStandIn, front: Front, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(resource_types={"SCORE": 1, "MCORE": 4})
    first = grid.submit(job(resource_type="MCORE", coreCount=4))
    grid.submit(job())
    front.lost = {ACQUIRE: 2}

    given = source.acquire([OFFER], 2)

    assert [one.job.id for one in given] == [str(first)]
    assert "gives no more jobs" in caplog.text


def test_a_final_status_whose_answer_is_lost_is_set_once(grid: PandaStandIn, front: Front, source: GridSource) -> None:
    one = take(grid, source)
    source.beat(running(one))
    front.lost = {UPDATE: 1}
    with pytest.raises(SourceUnavailable):
        source.finish(ended(one))

    assert source.finish(ended(one)) == {}
    assert source.finish(ended(one, JobState.HELD)) == {}
    assert [final["job_status"] for final in grid.jobs[int(one.id)].finals] == ["finished"]


def test_a_job_that_is_handed_out_twice_bears_one_name(grid: PandaStandIn, front: Front, source: GridSource) -> None:
    front.exchanges = []
    grid.submit(job())
    [first] = source.acquire([OFFER], 1)
    again = front.exchanges[0].answered
    front.answerer = lambda method, path: (200, {}, again) if path.endswith("acquire_jobs") else None

    assert list(source.acquire([OFFER], 1)) == [first]


def test_one_job_out_of_bounds_takes_no_other_with_it(grid: PandaStandIn, source: GridSource) -> None:
    many = grid.submit(job(), [file("input", f"file-{n}.dat") for n in range(10_000)])
    long = grid.submit(job(arguments="x" * (2 << 20)))
    odd = grid.submit(job())
    grid.jobs[odd].more = {"jobPars": {"a": 1}}
    negative = grid.submit(job(maxWalltime=-60))
    good = grid.submit(job())

    given = {int(one.job.id): one for one in source.acquire([MANY], 100)}

    assert [number for number, one in given.items() if one.work is not None] == [good]
    words = {many: "inFiles: 10000", long: "jobPars", odd: "cannot be read", negative: "maxWalltime: '-60'"}
    for number, said in words.items():
        assert said in given[number].flaw
        told = ended(given[number].job, JobState.HELD, cause=given[number].flaw)
        assert source.finish([msgspec.structs.replace(told[0], exit_status=-1)]) == {}
        assert grid.jobs[number].finals[0]["pilot_error_code"] == 1344


def test_many_jobs_are_asked_for_in_portions(grid: PandaStandIn, front: Front, source: GridSource) -> None:
    jobs = [grid.submit(job()) for _ in range(60)]

    given = source.acquire([MANY], 100)

    assert sorted(int(one.job.id) for one in given) == jobs
    assert front.asked[ACQUIRE] == 3


def test_a_queue_with_nothing_is_asked_once_for_all_machines_that_a_larger_one_covers(
    front: Front, source: GridSource
) -> None:
    small = msgspec.structs.replace(MACHINE, cpus=1, memory_mib=100)

    assert list(source.acquire([OFFER, Offer(small, 3)], 7)) == []
    assert front.asked[ACQUIRE] == 1


def test_two_sources_that_acquire_at_once_take_each_job_once(grid: PandaStandIn, make: Make) -> None:
    jobs = [grid.submit(job()) for _ in range(20)]
    sources = [make("first"), make("second")]
    found: list[list[str]] = [[], []]

    def acquire(n: int) -> None:
        found[n] = [one.job.id for one in sources[n].acquire([MANY], 100)]

    threads = [threading.Thread(target=acquire, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(int(one) for one in found[0] + found[1]) == jobs


def test_nothing_secret_goes_with_a_job(grid: PandaStandIn, source: GridSource) -> None:
    grid.secrets = {
        "pilotSecrets": "SECRET",
        "secrets": {"a": "SECRET"},
        "prodDBlockToken": "SECRET",
        "myproxy": "SECRET",
    }
    grid.submit(job(), [file("input", "a.dat")])

    [given] = source.acquire([OFFER], 1)

    assert given.work is not None
    assert b"SECRET" not in msgspec.msgpack.encode(given)


def test_a_stop_is_heard_of_a_job_of_another_try_and_of_none(grid: PandaStandIn, source: GridSource) -> None:
    one, other = take(grid, source), take(grid, source)
    assert source.beat([*running(one), *running(other)]) == []

    grid.jobs[int(one.id)].facts["attemptNr"] = 1

    [stop] = source.beat([*running(one), *running(other)])
    assert (stop.id, stop.attempt) == (one.id, 1)
    assert "tobekilled" in stop.why
    assert "try 1" in source.finish(ended(one))[one.id]
    assert grid.status(int(one.id)) == ("running", 1)


def test_one_final_status_that_is_not_taken_is_told_of_that_job_alone(
    grid: PandaStandIn, front: Front, source: GridSource
) -> None:
    one, other = take(grid, source), take(grid, source)
    bad = {"success": True, "message": "Database error", "data": {"StatusCode": 30}}
    good = {"success": True, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}
    said = json.dumps({"success": True, "message": "", "data": [bad, good]}).encode()
    front.answerer = lambda method, path: (200, {}, said)

    reasons = source.finish([*ended(one), *ended(other)])

    assert list(reasons) == [one.id]
    assert "Database error" in reasons[one.id]


def test_a_token_that_expires_in_the_middle_is_read_again(
    grid: PandaStandIn, front: Front, source: GridSource, tmp_path: Path
) -> None:
    one = take(grid, source)
    fresh = grid.pilot(7200)

    def renew(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if fresh in front.tokens[-1]:
            return None
        token_file(tmp_path / "panda.token", fresh)
        return 403, {}, b"ERROR : Token authentication failed. Invalid token. Signature has expired"

    front.answerer = renew

    assert source.beat(running(one)) == []
    assert grid.status(int(one.id)) == ("running", 0)


def test_a_token_that_nothing_renews_is_said_with_its_file(
    grid: PandaStandIn, front: Front, make: Make, tmp_path: Path
) -> None:
    source = make(token=token_file(tmp_path / "old.token", grid.pilot(-60)))

    with pytest.raises(SourceUnavailable, match=r"old\.token, of token, expired"):
        source.acquire([OFFER], 1)
    assert front.asked[ACQUIRE] == 0
    (tmp_path / "old.token").unlink()
    with pytest.raises(SourceUnavailable, match="is not there"):
        source.acquire([OFFER], 1)


def test_an_input_is_held_to_size_and_checksum_and_no_token_goes_to_the_storage(
    grid: PandaStandIn, make: Make, tmp_path: Path
) -> None:
    content = b"data" * 1000
    grid.store(SCOPE, "a.dat", content)
    storage = Front(grid.url)
    source = make(storage={"*": f"{storage.url}/storage"})
    right = {"fsize": len(content), "checksum": f"ad:{zlib.adler32(content):08x}"}
    wrong = [{**right, "fsize": 3}, {**right, "checksum": "ad:00000001"}, {**right, "checksum": f"md5:{'0' * 32}"}]
    for facts in (right, *wrong):
        grid.submit(job(), [file("input", "a.dat", **facts)])
    given = [one.work.inputs[0] for one in source.acquire([OFFER], 4) if one.work]

    source.stage_in(GridJob(id="1"), given[0], tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content
    for wanted, words in zip(given[1:], ("4000 bytes, and not 3", "ad:", "md5:"), strict=True):
        with pytest.raises(SourceUnavailable, match=words):
            source.stage_in(GridJob(id="1"), wanted, tmp_path / "target")
    storage.close()
    assert set(storage.tokens) == {""}


def test_a_job_that_is_made_ready_is_said_to_be_and_one_that_is_killed_meanwhile_is_not(
    grid: PandaStandIn, front: Front, source: GridSource, tmp_path: Path
) -> None:
    grid.store(SCOPE, "a.dat", b"data")
    for _ in range(2):
        grid.submit(job(), [file("input", "a.dat")])
    one, killed = source.acquire([OFFER], 2)
    assert one.work is not None

    for _ in range(3):
        source.stage_in(one.job, one.work.inputs[0], tmp_path / "target")
    grid.kill(int(killed.job.id))
    with pytest.raises(SourceRefused, match="tobekilled"):
        source.stage_in(killed.job, one.work.inputs[0], tmp_path / "target")

    assert grid.status(int(one.job.id)) == ("starting", 0)
    assert front.asked[UPDATE] == 2
    front.says(503)
    source.stage_in(GridJob(id="99"), one.work.inputs[0], tmp_path / "target")


def test_a_storage_that_sends_a_page_or_sends_us_elsewhere_gives_no_input(
    grid: PandaStandIn, make: Make, tmp_path: Path
) -> None:
    storage = Front(grid.url)
    source = make()
    one = take(grid, source)
    wanted = GridInput(name="a.dat", where=f"{storage.url}/a.dat#checksum=&size=-1")
    for status, kind in (
        (302, SourceUnavailable),
        (403, SourceUnavailable),
        (404, SourceRefused),
        (503, SourceUnavailable),
    ):
        storage.says(status, "<html>", Location="http://127.0.0.1:1/x")
        with pytest.raises(kind, match=r"a\.dat"):
            source.stage_in(one, wanted, tmp_path / "target")
    storage.close()


def test_a_storage_that_has_a_file_on_another_machine_is_followed_there_but_not_in_the_clear(
    grid: PandaStandIn, make: Make, tmp_path: Path
) -> None:
    grid.files["/storage/there"] = b"data"
    storage, source = Front(grid.url), make()
    one = take(grid, source)
    wanted = GridInput(name="a.dat", where=f"{storage.url}/a.dat#checksum=&size=4")

    storage.says(307, Location=f"{grid.url}/storage/there")
    source.stage_in(one, wanted, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"data"
    for elsewhere in ("http://storage.example.org/x", "ftp://x/y", "https://user@storage.example.org/x", ""):
        storage.says(307, Location=elsewhere)
        with pytest.raises(SourceUnavailable, match=r"a\.dat"):
            source.stage_in(one, wanted, tmp_path / "target")
    storage.close()


def test_a_log_that_is_too_long_is_refused(grid: PandaStandIn, source: GridSource, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(300 << 20)
    output = GridOutput(name="big", size=300 << 20, sha256="")

    with pytest.raises(SourceRefused, match="a log in PanDA's cache may have 256 MiB in it"):
        source.stage_out(
            GridEnding(job=GridJob(id="1"), state=JobState.DONE, outputs=[output]), lambda name: tmp_path / name
        )


class Certified:
    """A server that asks for certificates, and one authority."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.directory = trustme.CA(), directory
        self.ca.cert_pem.write_to_path(directory / "ca.pem")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        self.grid = PandaStandIn(context)

    def proxy(self, by: trustme.CA) -> Path:
        """Write a certificate and its key into one file, as a proxy is."""
        path, leaf = self.directory / "proxy.pem", by.issue_cert("pilot@example.org")
        path.touch(0o600)
        path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        return path


def test_a_certificate_is_shown_and_read_again_when_it_is_renewed(tmp_path: Path) -> None:
    server = Certified(tmp_path)
    path = server.proxy(trustme.CA())
    settings = PandaSettings(
        url=server.grid.url, queue=QUEUE, label="user", certificate=str(path), ca_file=str(tmp_path / "ca.pem")
    )
    source = make_panda(settings, "panda")
    try:
        with pytest.raises(SourceUnavailable):
            source.acquire([OFFER], 1)
        server.proxy(server.ca)
        number = server.grid.submit(job())
        [given] = source.acquire([OFFER], 1)
        assert given.job.id == str(number)
        path.unlink()
        assert source.beat(running(given.job)) == []
        path.touch(0o600)
        path.write_text("half a cert")
        with pytest.raises(SourceUnavailable, match=r"proxy\.pem holds no certificate"):
            source.beat(running(given.job))
        server.proxy(server.ca)
        assert source.beat(running(given.job)) == []
    finally:
        source.close()
        server.grid.close()


def test_authorities_may_be_a_directory_as_grids_have_it(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl, which names a certificate by its hash")
    server = Certified(tmp_path)
    ask = [openssl, "x509", "-noout", "-hash", "-in", str(tmp_path / "ca.pem")]
    name = subprocess.run(ask, capture_output=True, check=True, text=True, timeout=30).stdout.strip()
    (tmp_path / "certificates").mkdir()
    (tmp_path / "ca.pem").rename(tmp_path / "certificates" / f"{name}.0")
    proxy = str(server.proxy(server.ca))
    usual = PandaSettings(url=server.grid.url, queue=QUEUE, label="user", certificate=proxy)

    found = []
    for ca_file in (str(tmp_path / "certificates"), ""):
        source = make_panda(msgspec.structs.replace(usual, ca_file=ca_file), "panda")
        with contextlib.suppress(SourceUnavailable):
            found.append((ca_file != "", list(source.acquire([OFFER], 1))))
        source.close()
    server.grid.close()

    assert found == [(True, [])]


def test_a_key_that_everybody_may_read_is_refused(grid: PandaStandIn, tmp_path: Path) -> None:
    path = Certified(tmp_path)
    path.grid.close()
    proxy = path.proxy(path.ca)
    proxy.chmod(0o644)

    with pytest.raises(SourceUnavailable, match="chmod 600"):
        make_panda(PandaSettings(url=grid.url, queue=QUEUE, certificate=str(proxy)), "panda")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queue": ""}, "source.queue is missing"),
        ({"token": ""}, "source.token is missing"),
        ({"origin": ""}, "source.origin is missing"),
        ({"url": "http://panda.example.org"}, "must be https"),
        ({"cache_url": "ftp://x"}, "source.cache_url = 'ftp://x'"),
        ({"storage": {"CERN": "http://dav.example.org"}}, "source.storage.CERN"),
        ({"programs_from": ["nowhere"]}, "source.programs_from = 'nowhere'"),
    ],
)
def test_settings_that_cannot_be_are_said_by_their_key(
    grid: PandaStandIn, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_panda(settings_for(grid, tmp_path, **changes), "panda")
