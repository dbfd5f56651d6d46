"""Files by which the job of a guest speaks while it runs, as vboxwrapper's do: each has its effect once, also where it
races the job's own end. What the guest says is bounded, and plain text for whoever reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from host_agent.boinc.endings import ExitCode, SlotEnding
from host_agent.boinc.guest_tasks import fraction_in
from host_agent.boinc.outgoing import Outgoing
from host_agent.boinc.plan import SharedPlan
from host_agent.boinc.slot_files import MOST_DELAY_S
from host_agent.own_centre.own_centre import OwnCentre
from schemas.jobs import OutputEntry, ToldFile
from schemas.plain_text import plain

log = logging.getLogger(__name__)

#: How long outputs may take to come once a job says that it has ended, and a file to go that has had its effect:
#: seconds of running.
GATHER_S, GONE_S = 600.0, 30.0
#: A delay that a job names and that is none.
_DELAY_S = 300
_MOST_WORDS = 1000


class Trigger(Struct, frozen=True):
    """What such a file says: a number, whether it is a notice, words."""

    number: int | None
    is_notice: bool
    words: str


def read_trigger(content: bytes) -> Trigger:
    """Read a completion file, or one that puts a job off. Never fails."""
    first, _, rest = content.decode(errors="replace").partition("\n")
    second, _, words = rest.partition("\n")
    try:
        number: int | None = int(first.strip()[:12])
    except ValueError:
        number = None
    return Trigger(number, second.strip() == "1", plain(" ".join(words.split())[:_MOST_WORDS]))


def ending_of(content: bytes) -> SlotEnding:
    """Say how a job has ended that has written this into its completion file."""
    said = read_trigger(content)
    status = said.number if said.number is not None else 0
    return SlotEnding(status=status & 0xFF, reason=said.words, is_finished=True, is_notice=said.is_notice)


class Triggers:
    """See the module. ``look`` in each step, with the time that the job has run so far; it gives how all ends, once it
    does."""

    def __init__(
        self,
        shared: SharedPlan,
        outputs: tuple[str, ...],
        centre: OwnCentre,
        outgoing: Outgoing,
        upload: Callable[[str, OutputEntry], str],
    ) -> None:
        """``outputs`` are had before an end that the guest's job does not make itself; ``upload`` puts one where it
        belongs and gives the name under which it is uploaded, empty where it is none."""
        self._shared, self._outputs, self._centre, self._outgoing = shared, outputs, centre, outgoing
        self._upload = upload
        self._sent: dict[str, int] = {}
        self._uploaded: set[str] = set()
        self._beat: tuple[int, float] | None = None
        self._gathering: tuple[float, SlotEnding] | None = None
        self._leaving: tuple[float, SlotEnding] | None = None

    def fraction(self, name: str, runtime_s: float) -> float:
        """Say how much is done: what the job says, or how much of its time has gone."""
        if name:
            told = self._centre.told(name)
            return fraction_in(told.content) if told is not None else 0.0
        return runtime_s / self._shared.duration_s if self._shared.duration_s else 0.0

    def look(self, runtime_s: float) -> SlotEnding | None:
        """Do what the files ask for. Raises OSError."""
        if self._centre.holding is None:
            return None
        self._send_trickles()
        self._send_uploads()
        return self._left(runtime_s) or self._gathered(runtime_s) or self._judge(runtime_s)

    def _judge(self, runtime_s: float) -> SlotEnding | None:
        if self._gathering is not None or self._leaving is not None:
            return None
        if (told := self._told(self._shared.completion)) is not None:
            self._gathering = runtime_s, ending_of(told.content)
        elif (told := self._told(self._shared.temporary_exit)) is not None:
            said = read_trigger(told.content)
            delay_s = said.number if said.number is not None and 0 < said.number <= MOST_DELAY_S else _DELAY_S
            reason = said.words or "the job asks to be put off"
            put_off = SlotEnding(delay_s=delay_s, reason=reason, is_notice=said.is_notice)
            self._leaving = runtime_s, put_off
            self._centre.remove(told)
        elif self._shared.duration_s and runtime_s >= self._shared.duration_s:
            log.info("the job has run for its %g s: that is its success", self._shared.duration_s)
            self._gathering = runtime_s, SlotEnding(is_finished=True)
        else:
            return self._miss_heartbeat(runtime_s)
        return None

    def _gathered(self, runtime_s: float) -> SlotEnding | None:
        """Have the outputs that are there, then end."""
        if self._gathering is None:
            return None
        since_s, ending = self._gathering
        missing = [told for told in map(self._told, self._outputs) if told and self._centre.early(told.name) is None]
        for told in missing:
            self._centre.want(told)
        if missing and runtime_s - since_s < GATHER_S:
            return None
        if missing:
            log.error("the guest did not send %s", ", ".join(told.name for told in missing))
        return ending

    def _left(self, runtime_s: float) -> SlotEnding | None:
        """Be put off once the file that asks for it has gone: the job finds it no more when it goes on."""
        if self._leaving is None:
            return None
        since_s, ending = self._leaving
        is_gone = self._told(self._shared.temporary_exit) is None
        return ending if is_gone or runtime_s - since_s > GONE_S else None

    def _miss_heartbeat(self, runtime_s: float) -> SlotEnding | None:
        if not self._shared.heartbeat:
            return None
        told = self._told(self._shared.heartbeat)
        mark = told.mtime_ns if told is not None else 0
        if self._beat is None or self._beat[0] != mark:
            self._beat = mark, runtime_s
        if runtime_s - self._beat[1] <= self._shared.heartbeat_s:
            return None
        text = f"the job's {self._shared.heartbeat} has not changed for {self._shared.heartbeat_s:g} s of running"
        return SlotEnding(status=ExitCode.ABORTED_BY_CLIENT, reason=text, is_finished=True)

    def _send_trickles(self) -> None:
        for name in self._shared.trickles:
            told = self._told(name)
            if told is None or self._sent.get(name) == told.mtime_ns:
                continue
            self._sent[name] = told.mtime_ns
            if told.size > len(told.content):
                log.warning(
                    "the trickle %s has %d bytes, and is cut to its last %d", name, told.size, len(told.content)
                )
            self._outgoing.trickle(name, told.content.decode(errors="replace"))
            self._centre.remove(told)

    def _send_uploads(self) -> None:
        for name in self._shared.uploads:
            told = self._told(name)
            if told is None or name in self._uploaded:
                continue
            entry = self._centre.early(name)
            if entry is None:
                self._centre.want(told)
                continue
            self._uploaded.add(name)
            if logical := self._upload(name, entry):
                self._outgoing.upload(logical)
            else:
                log.warning("%s is no output of this task: it is not uploaded early", name)

    def _told(self, name: str) -> ToldFile | None:
        return self._centre.told(name) if name else None
