"""Starting a system that outlives its starter, and waiting until it is up or has failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from volcloud.centre.log_words import LogMark
from volcloud.centre.main import Report
from volcloud.centre.plan import Plan, write_plan
from volcloud.centre.process_state import SUPERVISOR
from volcloud.centre.stopping import Say
from volcloud.errors import CentreFailed


def start_detached(plan: Plan, say: Say) -> int:
    """Start the supervisor in a session of its own and give its pid once the system is ready.

    Raises CentreFailed with the end of its log when it is not. Interrupted, it takes down what has come up. Blocking.
    """
    layout = plan.layout
    layout.make()
    write_plan(plan)
    reading, writing = os.pipe()
    mark = LogMark.of(layout.log(SUPERVISOR))
    with layout.log(SUPERVISOR).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "volcloud.centre.main", "--plan", str(layout.last), "--report", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.root,
            pass_fds=[writing],
            start_new_session=True,
        )
    os.close(writing)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _follow(mark, reading, say)
    except BaseException:
        _end(process)
        raise
    return process.pid


def _follow(mark: LogMark, reading: int, say: Say) -> None:
    for report in _reports(reading):
        if report.what == "ready":
            return
        if report.what == "failed":
            error = CentreFailed(report.text, report.next_step)
            error.exit_status = report.exit_status
            raise error
        say(report.text)
    raise CentreFailed(f"the supervisor ended without a word:\n{mark.words()}", f"see {mark.path}")


def _reports(reading: int) -> Iterator[Report]:
    with os.fdopen(reading, "rb") as pipe:
        for line in pipe:
            yield msgspec.json.decode(line, type=Report)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the supervisor to take everything down, and wait for it however often we are interrupted."""
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            continue  # it is on its way down; leaving now would leave things behind
