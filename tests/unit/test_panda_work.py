"""From PanDA's record of a job to work for a guest: what is taken, what is refused and in which words, and what never
goes through."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.sources.contract import MOST_DATA_BYTES, Acquired, GridWork
from adapters.sources.panda.files import place_of
from adapters.sources.panda.record import PandaJob, PandaRecord, read_job, read_query
from adapters.sources.panda.work import Sites, acquired, kept_of
from schemas.description import Requirements
from tests.sources.panda_jobs import file, job
from tests.sources.panda_standin import record
from tests.sources.panda_updates import StandInJob

SITES = Sites(["https://panda.example.org", "https://programs.example.org/trf"], {"CERN": "https://dav.example.org/r"})
FILES = [
    file("input", "a.dat", endpoint="CERN", fsize=5, checksum="ad:0A1B2C3D"),
    file("input", "b.dat", endpoint="CERN", checksum="d41d8cd98f00b204e9800998ecf8427e", GUID=None),
    file("output", "out.root"),
    file("log", "log.tgz"),
]


def said(**changes: Any) -> dict[str, Any]:
    """Give a record as the server hands it out, with changes."""
    return {**record(StandInJob(4711, job("/bin/echo", "a 'b c'", minRamCount=2000), list(FILES))), **changes}


def read(fields: dict[str, Any], room: Requirements | None = None) -> Acquired:
    found = read_job(json.dumps(fields).encode())
    assert found is not None
    return acquired(found, SITES, room)


def work_of(**changes: Any) -> GridWork:
    taken = read(said(**changes))
    assert taken.work is not None, taken.flaw
    return taken.work


def test_a_record_becomes_work() -> None:
    taken = read(said(coreCount="8", maxWalltime=3600, currentPriority=5000, maxDiskCount="NULL"))

    work = taken.work
    assert work is not None
    assert (taken.job.id, taken.job.attempt, taken.flaw) == ("4711", 1, "")
    assert (work.executable, work.arguments) == ("/bin/echo", ["a", "b c"])
    assert work.environment == {"PandaID": "4711", "PanDA_AttemptNr": "0", "PanDA_TaskID": "7"}
    assert work.requirements == Requirements(cpus=8, memory_mib=2000)
    assert (work.wall_time_s, work.priority, work.outputs) == (3600.0, 1000, ["out.root"])
    assert kept_of(taken.job).log_file == "log.tgz"
    assert len(taken.job.data) < MOST_DATA_BYTES


def test_a_file_is_looked_for_where_rucio_has_it_and_held_to_its_checksum() -> None:
    places = [place_of(one.where) for one in work_of().inputs]

    assert places == [
        ("https://dav.example.org/r/user/alice/78/86/a.dat", "ad:0a1b2c3d", 5),
        ("https://dav.example.org/r/user/alice/cb/da/b.dat", "md5:d41d8cd98f00b204e9800998ecf8427e", -1),
    ]


@pytest.mark.parametrize("nothing", ["NULL", "", None, 0, "0", "None"])
def test_what_says_nothing_is_as_if_it_were_not_there(nothing: object) -> None:
    names = ("maxWalltime", "maxCpuCount", "minRamCount", "maxDiskCount", "coreCount", "currentPriority", "taskID")
    work = work_of(**dict.fromkeys(names, nothing), jobPars="NULL")

    assert work.requirements == Requirements()
    assert (work.wall_time_s, work.priority, work.arguments) == (86_400.0, 0, [])


def test_a_query_string_says_the_same_as_json() -> None:
    fields = {key: "NULL" if value is None else value for key, value in said().items()}

    found = read_query(urlencode(fields))

    assert found is not None
    assert acquired(found, SITES) == read(said())


def test_a_program_is_fetched_from_where_programs_may_come() -> None:
    work = work_of(transformation="https://programs.example.org/trf/user/run%20me.sh")

    assert work.executable == "run me.sh"
    assert (work.inputs[0].where, work.inputs[0].executable) == (
        "https://programs.example.org/trf/user/run%20me.sh",
        True,
    )
    assert place_of(work.inputs[0].where).size == -1


def test_cpu_time_is_taken_where_no_wall_time_is_said() -> None:
    assert work_of(maxWalltime="NULL", maxCpuCount=80_000, coreCount=8).wall_time_s == 10_000.0
    assert work_of(maxWalltime=10**9).wall_time_s == 31 * 86_400.0


FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "no program": ({"transformation": "NULL"}, "transformation: is missing"),
    "a program from anywhere": ({"transformation": "https://evil.example.org/x"}, "source.programs_from"),
    "a program of another scheme": ({"transformation": "file:///etc/passwd"}, "source.programs_from"),
    "a program beside the folder": ({"transformation": "https://programs.example.org/trfs/x"}, "programs_from"),
    "a program above the folder": ({"transformation": "https://programs.example.org/trf/../x"}, "programs_from"),
    "a program above, hidden": ({"transformation": "https://programs.example.org/trf/%2e%2e/x"}, "programs_from"),
    "a program of a user": ({"transformation": "https://u:p@programs.example.org/trf/x"}, "programs_from"),
    "a program with no name": ({"transformation": "https://programs.example.org/trf/"}, "transformation"),
    "a long program": ({"transformation": "x" * 201}, "200 characters"),
    "an open quote": ({"jobPars": "echo 'a"}, "jobPars: 'echo 'a': no closing quotation: quote it"),
    "NUL": ({"jobPars": "a\0b"}, "jobPars: holds a NUL"),
    "2 MB of arguments": ({"jobPars": "x" * (2 << 20)}, "jobPars: 2097152 bytes: at most 262144"),
    "a long word": ({"jobPars": "x" * 130_000}, "characters each"),
    "a container": ({"container_name": "docker://alpine"}, "container_name: 'docker://alpine': a container"),
    "event service": ({"eventService": "True"}, "eventService"),
    "several steps": ({"preprocess": "x"}, "preprocess"),
    "a name that leads out": ({"inFiles": "../../etc/passwd,b.dat"}, "inFiles: '../../etc/passwd': must stay"),
    "an absolute name": ({"inFiles": "/etc/passwd,b.dat"}, "inFiles: '/etc/passwd'"),
    "an output that leads out": ({"outFiles": "../x"}, "outFiles: '../x'"),
    "an output as a stream": ({"outFiles": "stdout"}, "outFiles: 'stdout'"),
    "a log that leads out": ({"logFile": "../log"}, "logFile: '../log'"),
    "a name twice": ({"inFiles": "a.dat,a.dat"}, "inFiles: 'a.dat': is there twice"),
    "a name that is empty": ({"inFiles": "a.dat,NULL"}, "inFiles: ''"),
    "10,000 files": ({"inFiles": ",".join(f"f{n}" for n in range(10_000))}, "inFiles: 10000 files: at most 2000"),
    "20,000 outputs": ({"outFiles": ",".join(f"f{n}" for n in range(20_000))}, "outFiles: 20000 files"),
    "lists of different lengths": ({"checksum": "ad:12345678"}, "checksum: 1 members, and inFiles has 2"),
    "fewer scopes": ({"scopeIn": "a,b,c"}, "scopeIn: 3 members"),
    "a scope that leads out": ({"scopeIn": "user..x,user"}, "scopeIn: 'user..x'"),
    "a scope with a slash": ({"scopeIn": "a/b,user"}, "scopeIn: 'a/b'"),
    "a checksum that is none": ({"checksum": "ad:xyz,NULL"}, "checksum: 'ad:xyz': must be ad:"),
    "a size that is none": ({"fsize": "-5,3"}, "fsize: '-5'"),
    "an endpoint of nowhere": ({"ddmEndPointIn": "MARS,CERN"}, "ddmEndPointIn: 'MARS'"),
    "negative wall time": ({"maxWalltime": -1}, "maxWalltime: '-1': must be from 1"),
    "negative memory": ({"minRamCount": "-3"}, "minRamCount: '-3'"),
    "memory in words": ({"minRamCount": "much"}, "minRamCount: 'much': must be a number"),
    "endless memory": ({"minRamCount": "inf"}, "minRamCount: 'inf'"),
    "no number": ({"maxDiskCount": "nan"}, "maxDiskCount: 'nan'"),
    "too many cores": ({"coreCount": 1000}, "coreCount: '1000': must be from 1 to 256"),
    "a list for a text": ({"jobPars": ["a"]}, "cannot be read"),
    "a number of tries": ({"attemptNr": 10**9}, "attemptNr: '1000000000'"),
}


@pytest.mark.parametrize("kind", FLAWS)
def test_what_cannot_be_done_is_a_job_with_a_flaw_that_names_the_field(kind: str) -> None:
    changes, words = FLAWS[kind]

    taken = read(said(**changes))

    assert (taken.job.id, taken.work) == ("4711", None)
    assert words in taken.flaw
    assert len(taken.flaw) < 400
    assert taken.flaw.isprintable()


def test_what_no_machine_has_is_a_flaw_that_says_which_setting_helps() -> None:
    room = Requirements(cpus=4, memory_mib=4000, disk_mib=10_000)

    assert "coreCount: 8, and no machine that asked has more than 4" in read(said(coreCount=8), room).flaw
    assert "source.resource_types" in read(said(coreCount=8), room).flaw
    assert read(said(coreCount=4), room).flaw == ""


@pytest.mark.parametrize(
    "raw",
    [
        b'{"PandaID": 5, "x": ' + b"[" * 100_000,
        b"{",
        b"[]",
        b"null",
        b'{"PandaID": "x"}',
        b'{"PandaID": 0}',
        b'{"PandaID": -3}',
        b"{}",
    ],
)
def test_a_job_that_cannot_be_named_is_none(raw: bytes) -> None:
    assert read_job(raw) is None


def test_tries_are_counted_from_1() -> None:
    assert [read(said(attemptNr=n)).job.attempt for n in ("NULL", 0, 1, "2")] == [1, 1, 2, 3]


def test_nothing_secret_of_a_record_gets_into_the_work_or_is_kept() -> None:
    secrets = {
        "pilotSecrets": {"key": "SECRET-1"},
        "secrets": "SECRET-2",
        "prodDBlockToken": "SECRET-3",
        "dispatchDBlockToken": "SECRET-4",
        "credname": "SECRET-5",
        "myproxy": "SECRET-6",
        "pandaProxySecretKey": "SECRET-7",
        "prodUserID": "SECRET-8",
        "destinationDBlockToken": "SECRET-9",
    }

    taken = read(said(**secrets))
    found = read_job(json.dumps(said(**secrets)).encode())

    assert taken.work is not None
    assert b"SECRET" not in msgspec.msgpack.encode(taken)
    assert "SECRET" not in repr(found)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.lists(st.text()))


@given(st.dictionaries(st.sampled_from([*said()]), VALUES, max_size=8))
def test_whatever_a_record_says_it_is_work_or_a_flaw(changes: dict[str, Any]) -> None:
    found = read_job(json.dumps(said(**changes)).encode("utf-8", "surrogatepass"))

    if found is not None:
        taken = acquired(found, SITES)
        assert (taken.work is None) == bool(taken.flaw)
        assert msgspec.convert(msgspec.to_builtins(taken), Acquired) == taken


@given(st.binary(max_size=300))
def test_whatever_bytes_come_no_job_breaks_the_others(raw: bytes) -> None:
    found = read_job(raw)
    assert found is None or isinstance(acquired(found, SITES), Acquired)


@given(st.text(max_size=300))
def test_whatever_query_string_comes_is_read_or_not(text: str) -> None:
    found = read_query(text)
    assert found is None or isinstance(found, PandaJob)
    assert found is None or isinstance(found.record, PandaRecord | Exception)
