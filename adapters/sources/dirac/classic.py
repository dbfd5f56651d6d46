"""DIRAC's own matcher, asked by a program of its own: DIRAC's client has a licence and an environment of its own too.

The program is started by the command of the settings and runs for as long as it answers. It is told a line of JSON and
answers with one, in order:

    {"do": "match", "id": 7, "site": "CLOUD.Volunteer.org", "most": 2, "resources":
        {"NumberOfProcessors": 4, "MaxRAM": 8000, "Platform": "linux-x86_64", "CPUTime": 86400, "Tag": ["GPU"]}}
    {"id": 7, "jobs": [{"id": 1234, "attempt": 1, "jdl": "[ Executable = ... ]"}]}
    {"id": 7, "error": "the matcher is not there"}

Jobs that it was given before an error are beside the error, or in an answer without one: they are DIRAC's no more.
What it logs is its own business: its standard error is not read. ``examples/dirac_matcher.py`` is such a program for
DIRAC 9. It has not been run against a classic matcher, which needs MySQL and certificates; a program that plays its
part has been.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from adapters.errors import SourceError, SourceUnavailable
from adapters.sources.contract import Acquired, GridJob, Offer
from adapters.sources.dirac.client import DiracId, DiracRow
from adapters.sources.dirac.jobs import Kept, given, understood
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.http import Budget, shown

log = logging.getLogger(__name__)

#: How long the program may take for an answer, seconds; and how long one may be, bytes.
ANSWER_S, MOST_ANSWER_BYTES = 30.0, 16 << 20
#: How long one that is ended may take for that, seconds.
_END_S = 2.0

#: Gives jobs as they are at the grid, by number. Raises SourceError.
Look = Callable[[Sequence[int], Budget], Mapping[int, DiracRow]]


class MatchedJob(Struct, frozen=True):
    """A job that the matcher has given to us."""

    id: DiracId
    jdl: str
    attempt: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class MatcherAnswer(Struct, frozen=True):
    """A line of the program."""

    id: int
    jobs: list[MatchedJob] = []
    error: str = ""


class ClassicMatcher:
    """Takes the jobs that DIRAC's matcher gives."""

    #: DIRAC's own agents see that nobody speaks of a job that was matched.
    names_takings = False

    def __init__(self, look: Look, settings: DiracSettings) -> None:
        """``look`` reads how jobs are at the grid."""
        self._look, self._settings = look, settings
        self._program = MatcherProgram(settings.matcher_command)

    def close(self) -> None:
        """End the program. Idempotent."""
        self._program.close()

    def taken(self, takings: Sequence[str], budget: Budget) -> list[GridJob]:
        """It is not asked."""
        return []

    def acquire(self, offers: Sequence[Offer], most: int, taking: str, budget: Budget) -> list[Acquired]:
        """Take the jobs that DIRAC has for these slots. Raises SourceUnavailable where it has given none; what it has
        given is ours, whatever comes after that."""
        found: dict[int, MatchedJob] = {}
        rows: Mapping[int, DiracRow] = {}
        try:
            for offer in offers:
                if len(found) < most:
                    question = self._question(offer, min(offer.slots, most - len(found)))
                    found |= {job.id: job for job in self._program.ask(question, budget)}
            rows = self._look(list(found), budget)
        except SourceError as error:
            if not found:
                raise
            log.warning("not all could be asked about what the matcher gave", extra={"why": str(error)})
        taken = []
        for job in found.values():
            rescheduled = rows[job.id].reschedule_time if job.id in rows else None
            asked = understood(job.jdl, job.id, self._settings.cpu_factor)
            taken.append(given(asked, job.id, job.attempt, Kept(rescheduled=rescheduled or "")))
        return taken

    def _question(self, offer: Offer, most: int) -> dict[str, Any]:
        machine = offer.machine
        resources = {
            "NumberOfProcessors": machine.cpus,
            "MaxRAM": machine.memory_mib,
            "Platform": machine.platform,
            "CPUTime": 86_400,
            "Tag": list(machine.features),
        }
        return {"do": "match", "site": self._settings.site, "most": most, "resources": resources}


class MatcherProgram:
    """A program that answers lines with lines. It is started when it is asked, and ended when it does not answer."""

    def __init__(self, command: Sequence[str], answer_s: float = ANSWER_S) -> None:
        self._command, self._answer_s = list(command), answer_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def close(self) -> None:
        """End it, and wait for that. Idempotent."""
        with self._lock:
            self._end()

    def ask(self, question: dict[str, Any], budget: Budget) -> list[MatchedJob]:
        """Put a question. Raises SourceUnavailable; the program has ended then, but for an error of its own words."""
        with budget.holding(self._lock):
            self._asked += 1
            until_s = time.monotonic() + min(self._answer_s, budget.left_s())
            try:
                line = self._exchanged(msgspec.json.encode({**question, "id": self._asked}) + b"\n", until_s)
                answer = msgspec.json.decode(line, type=MatcherAnswer)
                if answer.id != self._asked:
                    raise SourceUnavailable(f"the matcher's program answers {answer.id}, and was asked {self._asked}")
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                self._end()
                raise SourceUnavailable(f"the matcher's program: {shown(str(error))}") from None
            except SourceUnavailable:
                self._end()
                raise
            if answer.error and not answer.jobs:
                raise SourceUnavailable(f"the matcher: {shown(answer.error)}")
            return answer.jobs

    def _exchanged(self, line: bytes, until_s: float) -> bytes:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise SourceUnavailable("the matcher's program has no pipes")
        process.stdin.write(line)
        process.stdin.flush()
        return _line_of(process.stdout.fileno(), until_s)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not taken of a question
                    stream.close()
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _line_of(descriptor: int, until_s: float) -> bytes:
    """Read one line. Raises SourceUnavailable where none comes in time, or a longer one than may be."""
    body = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not body.endswith(b"\n"):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                raise SourceUnavailable("the matcher's program does not answer")
            block = os.read(descriptor, 1 << 16)
            if not block:
                raise SourceUnavailable("the matcher's program has ended")
            body += block
            if len(body) > MOST_ANSWER_BYTES:
                raise SourceUnavailable(f"the matcher's program answers more than {MOST_ANSWER_BYTES >> 20} MiB")
    return bytes(body)
