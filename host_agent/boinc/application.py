"""``host_agent`` as an application of BOINC: started in a slot by a volunteer's client, or there by a person.

What it says goes to ``stderr.txt``, which the project sees; how it ends is left in the slot as BOINC wants it, last of
all. Nothing that it has started lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from broker.daemon.logs import log_to_stderr
from host_agent.boinc.arguments import Arguments, read_arguments
from host_agent.boinc.channels import Memory
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, finished, put_off
from host_agent.boinc.frozen import clear_unpacked, end_with_starter
from host_agent.boinc.init_data import InitData, read_init_data
from host_agent.boinc.job_files import has_job_file, read_plan
from host_agent.boinc.plan import RunPlan
from host_agent.boinc.programs import Programs
from host_agent.boinc.progress import Progress
from host_agent.boinc.segment import attach
from host_agent.boinc.signed_files import SignedFiles
from host_agent.boinc.slot_files import INIT_DATA
from host_agent.boinc.slot_lock import LOOK_S, PATIENCE_S, SlotLock
from host_agent.boinc.wrapper_run import WrapperRun
from host_agent.errors import JobFileError, WrongArguments
from host_agent.facts import AGENT_VERSION

log = logging.getLogger(__name__)

#: How long the client waits before it tries again where another process has the slot, seconds, as in BOINC.
LOCKED_S = 600
#: A disk that takes no file is given so long, seconds.
FULL_S = 300
_SET_CHILD_SUBREAPER = 36


def is_slot(directory: Path) -> bool:
    """Whether a directory looks like one in which a client, or a person, wants a job file carried out."""
    return (directory / INIT_DATA).exists() or has_job_file(directory)


def run_in_slot(words: Sequence[str]) -> NoReturn:
    """Carry out the job file of the directory that we are in; ends the process as BOINC wants it."""
    log_to_stderr("host_agent")
    status = _run(Path.cwd(), words)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    logging.shutdown()
    os._exit(status)


def _run(slot: Path, words: Sequence[str]) -> int:
    if "--version" in words or "-v" in words:
        print(f"host_agent {AGENT_VERSION}", file=sys.stderr)  # noqa: T201
        return 0
    lock = SlotLock(slot)
    try:
        ending = _with_slot(slot, words) if _take(lock) else _locked()
        log.info("ends: %s", ending.reason or f"finished with status {ending.status}")
        ending.leave(slot)
    except OSError as error:
        log.error("the slot cannot be written, the client starts this again: %s", error)
        return 0
    finally:
        with contextlib.suppress(OSError):
            lock.release()
    return ending.status


def _locked() -> SlotEnding:
    return put_off(LOCKED_S, "another process works in this slot")


def _take(lock: SlotLock) -> bool:
    """Have the slot for ourselves, after a while where somebody who has it is about to end."""
    deadline = time.monotonic() + PATIENCE_S
    while not lock.take():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _with_slot(slot: Path, words: Sequence[str]) -> SlotEnding:
    """Do all that is done while the slot is ours. Raises OSError."""
    data = _read_init_data(slot)
    memory, ending = _attached(slot, data)
    return ending if ending is not None else _Session(slot, data, memory).run(words)


def _read_init_data(slot: Path) -> InitData | None:
    try:
        return read_init_data((slot / INIT_DATA).read_bytes())
    except FileNotFoundError:
        return None


def _attached(slot: Path, data: InitData | None) -> tuple[Memory | None, SlotEnding | None]:
    if data is None:
        log.info("there is no %s: nobody but a person has started this", INIT_DATA)
        return None, None
    try:
        return attach(slot, data), None
    except OSError as error:
        return None, finished(ExitCode.INIT_FAILURE, f"no way to the BOINC client: {error.strerror or error}")


class _Session:
    """What is there between the client and one run."""

    def __init__(self, slot: Path, data: InitData | None, memory: Memory | None) -> None:
        self._slot, self._data = slot, data
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_work: WrapperRun | None = None
        pid = data.client_pid if data is not None else 0
        self._link = ClientLink(slot, memory, pid, self._on_change)

    def run(self, words: Sequence[str]) -> SlotEnding:
        """Carry out the job file, and say the last word to the client."""
        self._link.start()
        try:
            return asyncio.run(self._run(words))
        finally:
            self._link.close()

    async def _run(self, words: Sequence[str]) -> SlotEnding:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._link.quit)
        end_with_starter()
        try:
            plan = read_plan(self._slot)
            passes_all = any(task.appends_arguments for task in plan.runs)
            arguments = read_arguments(words, passes_all=passes_all)
        except JobFileError as error:
            return finished(ExitCode.JOB_FILE, str(error))
        except WrongArguments as error:
            return finished(ExitCode.INIT_FAILURE, str(error))
        for warned in plan.warnings:
            log.warning("job file: %s", warned)
        return await self._carry_out(plan, arguments)

    async def _carry_out(self, plan: RunPlan, arguments: Arguments) -> SlotEnding:
        _inherit_orphans()
        clear_unpacked(self._slot)
        data = self._data or InitData()
        programs = Programs(self._slot, self._data, arguments, SignedFiles(self._slot, self._data))
        progress = Progress(self._slot, plan, data, self._link, programs.cpu_s, arguments.trickle_s)
        self._at_work = WrapperRun(self._slot, plan, programs, progress, self._link, data.disk_bound_bytes)
        return await self._at_work.run()

    def _on_change(self) -> None:
        """In the link's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: the end has come anyway
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._at_work is not None:
            self._at_work.wake()


def _inherit_orphans() -> None:
    """Have descendants whose parents end become our children, so that none is lost and their CPU time is counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("orphans are not counted: %s", os.strerror(ctypes.get_errno()))
