"""``python -m volcloud.centre.main --plan FILE --report FD``: the supervisor of a detached system.

It tells how it is getting on through the pipe ``FD``, one JSON line a word, and closes it when that is decided.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from broker.daemon.logs import log_to_stderr
from broker.masking import mask
from volcloud.centre.plan import read_plan
from volcloud.centre.process_state import SUPERVISOR
from volcloud.centre.supervisor import hold_until_ended
from volcloud.telling import Verdict, judge

log = logging.getLogger("volcloud.centre")


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A word from the supervisor to whoever started it."""

    what: Literal["progress", "ready", "failed"]
    text: str = ""
    next_step: str = ""
    exit_status: int = 0


class Reporter:
    """The supervisor's end of the pipe; silent once the starter is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def say(self, text: str) -> None:
        """Tell progress, to the starter and to the log."""
        log.info(text)
        self._send(Report(what="progress", text=mask(text)))

    def ready(self) -> None:
        """Say that the system is up; the last word."""
        self._send(Report(what="ready"))
        self._close()

    def failed(self, verdict: Verdict) -> None:
        """Say why it is not; the last word."""
        log.error("the system does not come up", extra={"why": verdict.message})
        text, next_step = mask(verdict.message), mask(verdict.next_step)
        self._send(Report(what="failed", text=text, next_step=next_step, exit_status=verdict.exit_status))
        self._close()

    def _send(self, report: Report) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._descriptor, msgspec.json.encode(report) + b"\n")

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def main() -> None:
    """Hold the system up until a signal. Exits with the status that ``up`` shall have when it does not come up."""
    parser = argparse.ArgumentParser(prog="volcloud.centre.main")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--report", type=int, required=True)
    options = parser.parse_args()
    log_to_stderr(SUPERVISOR)
    reporter = Reporter(options.report)
    try:
        plan = read_plan(options.plan)
        asyncio.run(hold_until_ended(plan, reporter.say, reporter.ready, follows_starter=False))
    except Exception as error:  # noqa: BLE001  the top: whoever waits for a word gets one, whatever went wrong
        verdict = judge(error)
        reporter.failed(verdict)
        sys.exit(verdict.exit_status)


if __name__ == "__main__":
    main()
