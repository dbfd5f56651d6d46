"""How a run under BOINC ends, and what the client is left of it. Source: ``client/app_control.cpp``."""

from __future__ import annotations

import contextlib
from enum import IntEnum
from pathlib import Path

from msgspec import Struct

from broker import durable
from host_agent.boinc.client_will import ClientWill
from host_agent.boinc.slot_files import FINISHED, TEMPORARY_EXIT, finish_text, temporary_exit_text

_RESERVED_BYTES = 16 << 10


class ExitCode(IntEnum):
    """Codes of BOINC's, ``lib/error_numbers.h``."""

    SUCCESS = 0
    #: A job file, or what it names, cannot be used.
    JOB_FILE = 1
    #: A program has ended well and not made what it should, as VMwrapper has it.
    NO_OUTPUT = 4
    ABORTED_BY_CLIENT = 194
    CHILD_FAILED = 195
    INIT_FAILURE = 206


class Reserve:
    """Room in the slot for the last word: a disk that is full otherwise takes none, and the task is done again."""

    def __init__(self, slot: Path) -> None:
        self._path = slot / "host_agent_reserve"

    def take(self) -> None:
        """Take it, if there is any."""
        with contextlib.suppress(OSError):
            durable.replace(self._path, bytes(_RESERVED_BYTES))

    def give_back(self) -> None:
        """Give it back, right before the word is left. Raises OSError."""
        self._path.unlink(missing_ok=True)


class SlotEnding(Struct, frozen=True, kw_only=True):
    """One of four: finished for good with a status, away until the client starts us again, aborted, or put off."""

    status: int = 0
    #: What people read of it: the reason.
    reason: str = ""
    is_finished: bool = False
    #: Seconds until the client tries again; 0: as soon as it likes.
    delay_s: int = 0
    #: The reason is shown to the volunteer as a notice.
    is_notice: bool = False
    #: What runs does not get on: its state is not worth saving.
    is_without_state: bool = False

    @property
    def is_for_good(self) -> bool:
        """Whether the task never goes on."""
        return self.is_finished or self.status == ExitCode.ABORTED_BY_CLIENT

    def leave(self, slot: Path) -> None:
        """Leave word of it in the slot, where word is due. Raises OSError: then the client starts us again."""
        if self.is_finished:
            durable.replace(
                slot / FINISHED, finish_text(self.status, self.reason, is_notice=self.is_notice).encode(), mode=0o644
            )
        elif self.delay_s:
            text = temporary_exit_text(self.delay_s, self.reason, is_notice=self.is_notice)
            durable.replace(slot / TEMPORARY_EXIT, text.encode(), mode=0o644)


def finished(status: int = 0, reason: str = "") -> SlotEnding:
    """The task has come to its end, well or not."""
    return SlotEnding(status=status, reason=reason, is_finished=True)


def away(reason: str) -> SlotEnding:
    """The client wants us to end, or is gone: it starts the task again some day."""
    return SlotEnding(reason=reason)


def aborted() -> SlotEnding:
    """The task shall never be carried on."""
    return SlotEnding(status=ExitCode.ABORTED_BY_CLIENT, reason="the client aborts the task")


def put_off(delay_s: int, reason: str) -> SlotEnding:
    """Not now: something stands in the way that passes."""
    return SlotEnding(delay_s=delay_s, reason=reason)


def wanted_end(will: ClientWill) -> SlotEnding | None:
    """Say how all of it ends, where the client wants an end."""
    if will.is_aborting:
        return aborted()
    if will.is_quitting:
        return away("told to end; goes on later from where it stands")
    return away("the BOINC client is gone; goes on when it is back") if will.is_gone else None
