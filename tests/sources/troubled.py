"""Grids that get into trouble, each as it would: one in memory, a directory, a real DiracX, and one that plays PanDA.

The two servers stand behind a front on loopback that is down, slow, answers with a page or twice; their data bases
forget jobs. Of a grid in memory each call fails as its source would have it. A directory can be away, and no more.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from adapters.errors import SourceUnavailable
from adapters.sources.contract import GridInput, GridSource, GridWork
from adapters.sources.dirac import make_dirac
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.memory import Failing, MemoryGrid, MemorySource
from adapters.sources.panda import make_panda
from adapters.sources.spool import SpoolSource
from schemas.ledger import JobState
from tests.sources.diracx_peer import DiracxPeer
from tests.sources.front import Front
from tests.sources.panda_jobs import file, job
from tests.sources.panda_played import settings_for, token_file
from tests.sources.panda_standin import PandaStandIn

SITE = "CLOUD.Volunteer.org"
#: What is wrong with a job that nobody can do.
MANY_FILES, LONG_ENVIRONMENT, UPWARDS, NEGATIVE_TIME = "10,000 files", "2 MB of environment", "a name with ..", "-60 s"
#: What may be wrong with all of a grid.
DOWN, SLOW, PAGE, ERROR_INSIDE, EXPIRED, TWICE = "down", "slow", "a page", "an error inside", "an old token", "twice"


class Troubled(Protocol):
    """A grid, its users, and who does it harm."""

    #: What can be wrong with all of it, with words that an operator is shown of that.
    troubles: ClassVar[Mapping[str, str]]
    #: What can be wrong with one of its jobs, with words that its owner is told.
    flaws: ClassVar[Mapping[str, str]]

    def source(self, trouble: str = "") -> GridSource:
        """Give a source for it, also while it is in trouble; before one that is slow it waits for a shorter time."""

    def submit(self, flaw: str = "") -> str:
        """Submit a job; gives its name there."""

    def begin(self, trouble: str) -> None:
        """Have it in trouble."""

    def over(self) -> None:
        """Have its trouble over."""

    def forget(self, job: str) -> None:
        """Have it know nothing of a job any more."""

    def finals(self, job: str) -> list[str]:
        """Give each final status that was set of a job: done or failed."""

    def reason(self, job: str) -> str:
        """Give what its user is told of the end of a job."""

    def connections(self) -> int:
        """Say how many connections to it there were at once at most."""

    def close(self) -> None:
        """End it."""


class InMemory:
    troubles: ClassVar[Mapping[str, str]] = {
        DOWN: "acquire: nobody answers",
        SLOW: "acquire: no answer for ",
        PAGE: "acquire: ValueError: <html>",
        EXPIRED: "acquire: the token has expired",
    }
    flaws: ClassVar[Mapping[str, str]] = {
        MANY_FILES: "inputs",
        LONG_ENVIRONMENT: "environment has 2097",
        UPWARDS: "inputs",
        NEGATIVE_TIME: "wall_time_s",
    }

    def __init__(self, directory: Path) -> None:
        self._grid, self._trouble, self._goes_on = MemoryGrid(), "", threading.Event()

    def source(self, trouble: str = "") -> GridSource:
        source: Any = Failing(MemorySource(self._grid), self._fault)
        return source  # type: ignore[no-any-return]

    def submit(self, flaw: str = "") -> str:
        flawed: dict[str, dict[str, Any]] = {
            MANY_FILES: {"inputs": [GridInput(name=f"file-{n}", where="here") for n in range(10_000)]},
            LONG_ENVIRONMENT: {"environment": {"LONG": "x" * (2 << 20)}},
            UPWARDS: {"inputs": [GridInput(name="../up", where="here")]},
            NEGATIVE_TIME: {"wall_time_s": -60.0},
        }
        work = GridWork(executable="/bin/true", **flawed.get(flaw, {}))
        return self._grid.submit(work, {"here": b"x"})

    def begin(self, trouble: str) -> None:
        self._goes_on.clear()
        self._trouble = trouble

    def over(self) -> None:
        self._trouble = ""
        self._goes_on.set()

    def forget(self, job: str) -> None:
        with self._grid.lock:
            del self._grid.jobs[job]

    def finals(self, job: str) -> list[str]:
        return [_word(one.state) for one in self._grid.jobs[job].finals]

    def reason(self, job: str) -> str:
        return self._grid.jobs[job].finals[-1].cause

    def connections(self) -> int:
        return 0

    def close(self) -> None:
        self.over()

    def _fault(self, method: str, when: str) -> Exception | None:
        if when == "after" or method == "close":
            return None
        if self._trouble == SLOW:
            self._goes_on.wait(60)
        faults: dict[str, Exception] = {
            DOWN: SourceUnavailable("nobody answers"),
            PAGE: ValueError("<html>"),
            EXPIRED: SourceUnavailable("the token has expired"),
        }
        return faults.get(self._trouble)


class Spooled:
    troubles: ClassVar[Mapping[str, str]] = {DOWN: "No such file or directory"}
    flaws: ClassVar[Mapping[str, str]] = {
        MANY_FILES: "inputs",
        LONG_ENVIRONMENT: "environment has 2097",
        UPWARDS: "inputs",
        NEGATIVE_TIME: "wall_time_s",
    }

    def __init__(self, directory: Path) -> None:
        self._directory, self._count = directory / "spool", 0
        self._source = SpoolSource(self._directory)

    def source(self, trouble: str = "") -> GridSource:
        return self._source

    def submit(self, flaw: str = "") -> str:
        flawed: dict[str, dict[str, Any]] = {
            MANY_FILES: {"inputs": [f"file-{n}" for n in range(10_000)]},
            LONG_ENVIRONMENT: {"environment": {"LONG": "x" * (2 << 20)}},
            UPWARDS: {"inputs": ["../up"]},
            NEGATIVE_TIME: {"wall_time_s": -60},
        }
        self._count += 1
        name = f"job-{self._count}"
        content = json.dumps({"executable": "/bin/true", **flawed.get(flaw, {})})
        (self._directory / "new" / f".{name}").write_text(content)
        (self._directory / "new" / f".{name}").rename(self._directory / "new" / f"{name}.json")
        return name

    def begin(self, trouble: str) -> None:
        self._directory.rename(self._directory.with_name("away"))

    def over(self) -> None:
        if not self._directory.exists():
            self._directory.with_name("away").rename(self._directory)

    def forget(self, job: str) -> None:
        (self._directory / "taken" / f"{job}.json").unlink()

    def finals(self, job: str) -> list[str]:
        final = self._final(job)
        return [_word(json.loads(final.read_text())["state"])] if final.exists() else []

    def reason(self, job: str) -> str:
        return str(json.loads(self._final(job).read_text())["cause"])

    def connections(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing runs."""

    def _final(self, job: str) -> Path:
        return self._directory / "done" / f"{job}.json"


class Fronted:
    """A server behind a front."""

    troubles: ClassVar[Mapping[str, str]] = {
        DOWN: "cannot be reached",
        SLOW: "no answer within 2 s",
        PAGE: "the server's answer makes no sense",
    }
    #: What the server says with its status 200 though something is wrong.
    error_inside: ClassVar[str]

    def __init__(self, url: str, directory: Path) -> None:
        self.front, self.directory = Front(url), directory
        self._sources: list[GridSource] = []
        self._is_down = False

    def source(self, trouble: str = "") -> GridSource:
        self._sources.append(self._made(2.0 if trouble == SLOW else 25.0))
        return self._sources[-1]

    def begin(self, trouble: str) -> None:
        ways: dict[str, Callable[[], None]] = {
            DOWN: self.front.go_down,
            SLOW: self.front.answers.clear,
            PAGE: lambda: self.front.says(200, "<html><body>Welcome to the portal</body></html>"),
            ERROR_INSIDE: lambda: self.front.says(200, self.error_inside),
            EXPIRED: lambda: self._write_tokens(are_good=False),
            TWICE: lambda: setattr(self.front, "is_double", True),
        }
        self._is_down = trouble == DOWN
        ways[trouble]()

    def over(self) -> None:
        if self._is_down:
            self.front.go_up()
        self._is_down = False
        self.front.answers.set()
        self.front.answerer = lambda method, path: None
        self.front.is_double = False
        self._write_tokens(are_good=True)

    def connections(self) -> int:
        return self.front.most_open

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self.front.close()

    def _made(self, timeout_s: float) -> GridSource:
        raise NotImplementedError

    def _write_tokens(self, *, are_good: bool) -> None:
        raise NotImplementedError


class Dirac(Fronted):
    troubles: ClassVar[Mapping[str, str]] = Fronted.troubles | {
        ERROR_INSIDE: "the server's answer makes no sense",
        EXPIRED: "of operator_credential, ",
    }
    flaws: ClassVar[Mapping[str, str]] = {
        MANY_FILES: "outputs: 10000",
        LONG_ENVIRONMENT: "Environment",
        UPWARDS: "OutputSandbox",
        NEGATIVE_TIME: "CPUTime",
    }
    error_inside = '{"detail": "database is locked"}'

    def __init__(self, peer: DiracxPeer, directory: Path) -> None:
        super().__init__(peer.url, directory)
        self._peer, self._submitted = peer, list[int]()
        self._write_tokens(are_good=True)

    def submit(self, flaw: str = "") -> str:
        files = ", ".join(f'"file-{n}"' for n in range(10_000))
        flawed = {
            MANY_FILES: f"OutputSandbox = {{{files}}};",
            # DiracX itself takes a minute over 2 MB.
            LONG_ENVIRONMENT: f'Environment = {{"LONG={"x" * (1 << 19)}"}};',
            UPWARDS: 'OutputSandbox = {"../up"};',
            NEGATIVE_TIME: "CPUTime = -60;",
        }
        # Here alone, since one that others may do too is left to them where we cannot.
        [name] = self._peer.submit(f'Executable = "/bin/true"; Site = "{SITE}"; {flawed.get(flaw, "")}')
        self._submitted.append(name)
        return str(name)

    def forget(self, job: str) -> None:
        [database] = self._peer.directory.glob("[Jj]ob[Dd][Bb].db")
        with sqlite3.connect(database, timeout=60) as connection:
            for table in ("Jobs", "JobJDLs"):
                connection.execute(f"DELETE FROM {table} WHERE JobID = ?", (int(job),))
        self._submitted.remove(int(job))

    def finals(self, job: str) -> list[str]:
        row = self._peer.rows(int(job), history=True)[int(job)]
        ends = [step["Status"] for step in row["LoggingInfo"] if step["Status"] in ("Done", "Failed", "Killed")]
        # One that a beat has undone, as many as there are here, is set again: that is the same word.
        return list(dict.fromkeys("done" if end == "Done" else "failed" for end in ends))

    def reason(self, job: str) -> str:
        row = self._peer.rows(int(job))[int(job)]
        return f"{row['MinorStatus']} {row['ApplicationStatus']}"

    def close(self) -> None:
        super().close()
        left = [name for name in self._submitted if not self.finals(str(name))]
        if left:
            self._peer.step(left, "Killed", user="operator", group="operators")

    def _made(self, timeout_s: float) -> GridSource:
        operator, pilot = (str(self.directory / f"{name}.json") for name in ("operator", "pilot"))
        settings = DiracSettings(
            url=self.front.url, site=SITE, timeout_s=timeout_s, operator_credential=operator, pilot_credential=pilot
        )
        return make_dirac(settings, "lyon")

    def _write_tokens(self, *, are_good: bool) -> None:
        for user in ("operator", "pilot"):
            path = self._peer.credential(self.directory / f"{user}.json", user, f"{user}s")
            if not are_good:
                kept = json.loads(path.read_text())
                path.write_text(json.dumps(kept | {"refresh_token": "used", "expires_on": int(time.time()) - 10}))


class Panda(Fronted):
    troubles: ClassVar[Mapping[str, str]] = Fronted.troubles | {
        ERROR_INSIDE: "Timed out",
        EXPIRED: "token",
    }
    flaws: ClassVar[Mapping[str, str]] = {
        MANY_FILES: "inFiles: 10000",
        LONG_ENVIRONMENT: "jobPars",
        UPWARDS: "../up",
        NEGATIVE_TIME: "maxWalltime: '-60'",
    }
    error_inside = '{"success": false, "message": "Timed out", "data": null}'

    def __init__(self, directory: Path) -> None:
        self._server = PandaStandIn()
        super().__init__(self._server.url, directory)
        self._write_tokens(are_good=True)

    def submit(self, flaw: str = "") -> str:
        jobs: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
            MANY_FILES: (job(), [file("input", f"file-{n}") for n in range(10_000)]),
            # A job of PanDA has no environment of its own: it comes in what its transformation is told.
            LONG_ENVIRONMENT: (job(arguments="x" * (2 << 20)), []),
            UPWARDS: (job(), [file("input", "../up")]),
            NEGATIVE_TIME: (job(maxWalltime=-60), []),
        }
        return str(self._server.submit(*jobs.get(flaw, (job(), []))))

    def forget(self, job: str) -> None:
        with self._server.lock:
            del self._server.jobs[int(job)]

    def finals(self, job: str) -> list[str]:
        return [_word(one["job_status"]) for one in self._server.jobs[int(job)].finals]

    def reason(self, job: str) -> str:
        return str(self._server.jobs[int(job)].finals[-1]["pilot_error_diag"])

    def close(self) -> None:
        super().close()
        self._server.close()

    def _made(self, timeout_s: float) -> GridSource:
        storage = {"*": f"{self._server.url}/storage"}
        settings = settings_for(self._server, self.directory, url=self.front.url, storage=storage, timeout_s=timeout_s)
        self._write_tokens(are_good=self._are_good)  # settings come with a good one
        return make_panda(settings, "lyon")

    def _write_tokens(self, *, are_good: bool) -> None:
        self._are_good = are_good
        token_file(self.directory / "panda.token", self._server.pilot(3600 if are_good else -60))


def _word(state: str) -> str:
    return "done" if state in (JobState.DONE, "finished") else "failed"
