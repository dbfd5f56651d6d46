"""``host_agent`` as an application of BOINC: started in a slot by a volunteer's client, or in a directory by a person.

What it says goes to ``stderr.txt``, which the project sees; how it ends is left in the slot as BOINC wants it, last of
all. Nothing that it has started lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from broker.daemon.logs import EventFormatter
from broker.daemon.wakeup import Wakeup
from host_agent.boinc.arguments import Arguments, read_arguments
from host_agent.boinc.channels import Memory
from host_agent.boinc.checkpoint_turn import CheckpointTurn
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, Reserve, SlotEnding, finished, put_off
from host_agent.boinc.family import Family, inherit_orphans
from host_agent.boinc.frozen import clear_unpacked, end_with_starter
from host_agent.boinc.guest_needs import needs_of
from host_agent.boinc.guest_run import GuestRun
from host_agent.boinc.guest_tasks import GuestTasks
from host_agent.boinc.init_data import InitData, read_init_data
from host_agent.boinc.job_files import read_plan
from host_agent.boinc.plan import RunPlan
from host_agent.boinc.programs import Programs
from host_agent.boinc.progress import CpuMeters, Progress, SlowMeter
from host_agent.boinc.project_images import ProjectImages
from host_agent.boinc.segment import attach
from host_agent.boinc.signed_files import SignedFiles
from host_agent.boinc.slot_files import INIT_DATA
from host_agent.boinc.slot_lock import LOOK_S, PATIENCE_S, SlotLock
from host_agent.boinc.slot_names import SlotNames
from host_agent.boinc.wrapper_run import PUT_OFF_S, WrapperRun
from host_agent.errors import Interrupted, JobFileError, WrongArguments
from host_agent.facts import AGENT_VERSION
from host_agent.hypervisors.drivers import make_driver
from host_agent.own_centre.lone_host import LoneHost

log = logging.getLogger(__name__)

#: How long the client waits before it tries again where another process has the slot, seconds, as in BOINC.
LOCKED_S = 600
#: How long we wait where the slot takes no word of ours, before the client starts us again, seconds.
NO_WORD_S = 10.0
#: Where virtual machines are, in the slot; and how far they give way to all else.
MACHINES = "host_agent_machines"
LOWEST = 19
#: How often CPU time is measured of programs that a job does not have, seconds.
SELDOM_S = 30.0
#: Who tells each step of a machine's life, of which the project sees only the last 63 KiB.
_TOO_MUCH = ("host_agent.control", "host_agent.making", "host_agent.hypervisors", "broker")
#: What a person, a terminal or a system that goes down ends us by.
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def is_slot(directory: Path) -> bool:
    """Whether a directory is one in which a client starts applications."""
    return (directory / INIT_DATA).exists()


def run_in_slot(words: Sequence[str]) -> NoReturn:
    """Carry out the job file of the directory that we are in; ends the process as BOINC wants it."""
    shown = logging.StreamHandler()  # a file of the client's, which it keeps short itself
    shown.setFormatter(EventFormatter("host_agent"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])
    for name in _TOO_MUCH:
        logging.getLogger(name).setLevel(logging.WARNING)
    status = _run(Path.cwd(), words)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    logging.shutdown()
    os._exit(status)


def _run(slot: Path, words: Sequence[str]) -> int:
    log.info("host_agent %s begins", AGENT_VERSION)
    lock, reserve, ending = SlotLock(slot), Reserve(slot), None
    try:
        if _take(lock):
            reserve.take()
            ending = _with_slot(slot, words)
        else:
            ending = put_off(LOCKED_S, "another process works in this slot")
        log.info("ends: %s", ending.reason or f"finished with status {ending.status}")
        reserve.give_back()
        ending.leave(slot)
    except OSError as error:
        log.error("the slot cannot be written, the client starts this again: %s", error)
        time.sleep(NO_WORD_S)
    finally:
        with contextlib.suppress(OSError):
            lock.release()
    return ending.status if ending is not None else 0


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
        data = read_init_data((slot / INIT_DATA).read_bytes())
    except FileNotFoundError:
        return None
    for note in data.notes:
        log.warning("%s: %s", INIT_DATA, note)
    return data


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
        self._slot, self._data = slot, data or InitData()
        self._names = SlotNames(slot, data)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_work: WrapperRun | None = None
        self._link = ClientLink(slot, memory, self._data.client_pid, self._on_change)

    def run(self, words: Sequence[str]) -> SlotEnding:
        """Carry out the job file, and say the last word to the client."""
        self._link.start()
        try:
            return asyncio.run(self._run(words))
        finally:
            self._link.close()

    async def _run(self, words: Sequence[str]) -> SlotEnding:
        self._loop = asyncio.get_running_loop()
        for number in _ENDS:
            self._loop.add_signal_handler(number, self._link.quit)
        end_with_starter()
        try:
            plan, file = read_plan(self._names)
            passes_all = plan.is_vbox or any(task.appends_arguments for task in plan.tasks)
            arguments = read_arguments(words, passes_all=passes_all)
        except JobFileError as error:
            return finished(ExitCode.JOB_FILE, str(error))
        except WrongArguments as error:
            return finished(ExitCode.INIT_FAILURE, str(error))
        for warned in plan.warnings:
            log.warning("job file: %s", warned)
        if plan.refused:
            return finished(ExitCode.JOB_FILE, f"job file: {plan.refused[0]}")
        try:
            return await self._carry_out(plan, file, arguments)
        except OSError as error:
            return put_off(PUT_OFF_S, f"{error.filename or self._slot}: {error.strerror or error}")

    async def _carry_out(self, plan: RunPlan, file: Path, arguments: Arguments) -> SlotEnding:
        inherit_orphans()
        if self._names.has_client:  # else the directory is a person's
            clear_unpacked(self._slot)
        signed = SignedFiles(self._names, plan.unzip)
        is_signed_job = not self._names.has_client or signed.is_signed(file)
        programs = Programs(self._names, signed, self._data, arguments, is_signed_job=is_signed_job)
        family, wakeup = Family(self._names.slot), Wakeup()
        # For one of our own programs all processes are looked through; where none runs, seldom.
        cpu = CpuMeters([family.cpu_s if plan.runs else SlowMeter(family.cpu_s, SELDOM_S)])
        progress = Progress(self._slot, plan, self._data, self._link, cpu.total_s, arguments.trickle_s)
        guests = self._guests(plan, progress, arguments, wakeup) if plan.guests else None
        if guests is not None:
            cpu.meters.append(lambda: guests.cpu_s)
            family.machines = guests.processes
        self._at_work = WrapperRun(
            plan,
            self._names,
            programs,
            progress,
            self._link,
            family,
            wakeup,
            disk_bytes=self._data.disk_bound_bytes,
            holds_up_softly=arguments.uses_tstp,
            guests=guests,
        )
        return await self._at_work.run()

    def _guests(self, plan: RunPlan, progress: Progress, arguments: Arguments, wakeup: Wakeup) -> GuestRun:
        """Put together what runs virtual machines here. Raises HostError."""
        directory = self._names.slot / MACHINES
        niceness = LOWEST if self._data.may_change_priority else 0
        # Who the client runs as, VMs run as: there is no account beside it that could enter the slot.
        driver = make_driver({"kind": "qemu", "niceness": niceness, "uids": 0}, directory / "hypervisor", "hypervisor")
        host = LoneHost(directory, driver, ProjectImages(self._names, self._refuse), settings={})
        return GuestRun(
            plan,
            host,
            GuestTasks(self._names, self._data, arguments),
            progress,
            self._link,
            needs_of(self._data, arguments),
            CheckpointTurn(self._names.project),
            wakeup,
        )

    def _refuse(self) -> None:
        """In a thread: break off what takes long when the client wants an end."""
        if self._link.will.must_end:
            raise Interrupted("the client wants an end")

    def _on_change(self) -> None:
        """In the link's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: the end has come anyway
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._at_work is not None:
            self._at_work.wake()
