"""Files by which the job of a guest speaks while it runs, as vboxwrapper's do: each has its effect once, also where it
races the job's own end. What the guest says is bounded, and plain text for whoever reads it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from broker import durable
from host_agent.boinc.endings import ExitCode, SlotEnding
from host_agent.boinc.guest_tasks import fraction_in
from host_agent.boinc.outgoing import Outgoing
from host_agent.boinc.plan import SharedPlan
from host_agent.boinc.slot_files import MOST_DELAY_S
from host_agent.own_centre.heard_job import HeardJob
from schemas.jobs import OutputEntry, Phase, ToldFile
from schemas.plain_text import plain

log = logging.getLogger(__name__)

#: How long outputs may take to come once a job says that it has ended, and a file to go that has had its effect:
#: seconds of running.
GATHER_S, GONE_S = 600.0, 30.0
#: A delay that a job names and that is none.
_DELAY_S = 300
_MOST_WORDS = 1000
#: The least one: each costs a memory written and read.
LEAST_DELAY_S = 60
#: Beats in which a completion file is the same before it is believed, and one that is empty.
SAME_BEATS, EMPTY_BEATS = 1, 5
#: Beats after which all is told that was there when its time was up: the next one may be on its way.
FRESH_BEATS = 2
#: What one beat of the guest's stands for at most, seconds.
MOST_BETWEEN_BEATS_S = 5.0
#: The outputs that were uploaded early, in the slot.
_UPLOADED = "host_agent_uploaded.json"


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
    if status and not status & 0xFF:
        status = ExitCode.CHILD_FAILED  # the client sees eight bits of it
    return SlotEnding(status=status & 0xFF, reason=said.words, is_finished=True, is_notice=said.is_notice)


class Triggers:
    """See the module. ``look`` in each step, with the time that the job has run so far; it gives how all ends, once it
    does."""

    def __init__(
        self, shared: SharedPlan, outputs: tuple[str, ...], heard: HeardJob, outgoing: Outgoing, slot: Path
    ) -> None:
        """``outputs`` are had before an end that the guest's job does not make itself."""
        self._shared, self._outputs, self._heard, self._outgoing = shared, outputs, heard, outgoing
        self._note = slot / _UPLOADED
        #: By name, the number of the trickle that is on its way.
        self._trickles: dict[str, tuple[int, ToldFile]] = {}
        self._uploaded = _read_names(self._note)
        self._beat = Heartbeat(shared)
        #: The completion file as it was seen last, and for how many beats.
        self._seen: tuple[int, int, int] | None = None
        self._gathering: _Gathering | None = None
        self._leaving: tuple[float, SlotEnding] | None = None

    def fraction(self, name: str, runtime_s: float) -> float:
        """Say how much is done: what the job says, or how much of its time has gone."""
        if name:
            told = self._heard.told(name)
            return fraction_in(told.content) if told is not None else 0.0
        return runtime_s / self._shared.duration_s if self._shared.duration_s else 0.0

    def look(self, runtime_s: float) -> SlotEnding | None:
        """Do what the files ask for."""
        held = self._heard.holding
        if held is None or held.phase is not Phase.RUNNING:
            self._beat.forget()
            # What has ended by itself brings all that it has made, and what it has said.
            return None
        self._send_trickles()
        return self._left(runtime_s) or self._gathered(runtime_s) or self._judge(runtime_s)

    def due_uploads(self) -> list[tuple[str, OutputEntry]]:
        """Give the outputs that are to be uploaded now, and have come; each until it is noted."""
        due = []
        for name in self._shared.uploads:
            told = self._told(name)
            if told is None or name in self._uploaded:
                continue
            entry = self._heard.early(name)
            if entry is None:
                self._heard.want(told)
            else:
                due.append((name, entry))
        return due

    def note_upload(self, name: str, logical: str) -> None:
        """One was put where it belongs: it is uploaded under that name, once. Raises OSError."""
        self._uploaded.add(name)
        durable.replace(self._note, msgspec.json.encode(sorted(self._uploaded)))
        if logical:
            self._outgoing.upload(logical)
        else:
            log.warning("%s is no output of this task: it is not uploaded early", name)

    def _judge(self, runtime_s: float) -> SlotEnding | None:
        if self._gathering is not None or self._leaving is not None:
            return None
        if self._is_complete():
            self._gathering = _Gathering(runtime_s, None, self._heard.beats)
        elif (told := self._told(self._shared.temporary_exit)) is not None:
            said = read_trigger(told.content)
            delay_s = said.number if said.number is not None and 0 < said.number <= MOST_DELAY_S else _DELAY_S
            reason = said.words or "the job asks to be put off"
            put_off = SlotEnding(delay_s=max(delay_s, LEAST_DELAY_S), reason=reason, is_notice=said.is_notice)
            self._leaving = runtime_s, put_off
            self._heard.remove(told)
        elif self._shared.duration_s and runtime_s >= self._shared.duration_s:
            log.info("the job has run for its %g s: that is its success", self._shared.duration_s)
            self._gathering = _Gathering(runtime_s, SlotEnding(is_finished=True), self._heard.beats + FRESH_BEATS)
        elif self._beat.is_missed(self._told(self._shared.heartbeat), self._heard.beats):
            text = f"the job's {self._shared.heartbeat} has not changed for {self._shared.heartbeat_s:g} s of running"
            return SlotEnding(status=ExitCode.ABORTED_BY_CLIENT, reason=text, is_finished=True)
        return None

    def _is_complete(self) -> bool:
        """Whether the completion file is there, and is not being written: it is the same for some beats."""
        told = self._told(self._shared.completion)
        if told is None:
            self._seen = None
            return False
        mark = told.mtime_ns, told.size
        if self._seen is None or self._seen[:2] != mark:
            self._seen = *mark, self._heard.beats
        return self._heard.beats - self._seen[2] >= (SAME_BEATS if told.size else EMPTY_BEATS)

    def _gathered(self, runtime_s: float) -> SlotEnding | None:
        """Have the outputs that are there, and what is on its way to the project, then end."""
        if self._gathering is None:
            return None
        gathering = self._gathering
        may_wait = runtime_s - gathering.since_s < GATHER_S
        if gathering.names is None and self._heard.beats < gathering.from_beat and may_wait:
            return None
        if gathering.names is None:
            gathering.names = frozenset(name for name in self._outputs if self._told(name) is not None)
        told_now = [told for told in map(self._told, sorted(gathering.names)) if told is not None]
        missing = [told for told in told_now if self._heard.early(told.name) is None]
        for told in missing:
            self._heard.want(told)
        if (missing or self._trickles) and may_wait:
            return None
        if missing:
            log.error("the guest did not send %s", ", ".join(told.name for told in missing))
        completion = self._told(self._shared.completion)
        return gathering.ending or ending_of(completion.content if completion is not None else b"")

    def _left(self, runtime_s: float) -> SlotEnding | None:
        """Be put off once the file that asks for it has gone: the job finds it no more when it goes on."""
        if self._leaving is None:
            return None
        since_s, ending = self._leaving
        is_gone = self._told(self._shared.temporary_exit) is None
        return ending if (is_gone and not self._trickles) or runtime_s - since_s > GONE_S else None

    def _send_trickles(self) -> None:
        """Send what is there, one of each name at a time; it goes in the guest once the client has it."""
        for name, (number, told) in [*self._trickles.items()]:
            if self._outgoing.is_taken(number):
                self._heard.remove(told)
                if (now := self._told(name)) is None or now.mtime_ns != told.mtime_ns:
                    del self._trickles[name]
        for name in self._shared.trickles:
            told_now = self._told(name)
            if told_now is None or name in self._trickles:
                continue
            size, content = told_now.size, told_now.content
            if size > len(content):
                log.warning("the trickle %s, of %d bytes, is cut to its last %d", name, size, len(content))
            body = content.decode(errors="replace").replace("\0", "")
            self._trickles[name] = self._outgoing.trickle(name, body), told_now

    def _told(self, name: str) -> ToldFile | None:
        return self._heard.told(name) if name else None


class Heartbeat:
    """Counts for how long a job's file has not changed while it ran and was heard: no silence of the guest's, or of
    ours, is the job's fault."""

    def __init__(self, shared: SharedPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._clock = shared, clock
        self._mark = self._beats = -1
        self._same_s = self._looked_s = 0.0

    def forget(self) -> None:
        """Nothing is known of the time until now."""
        self._mark = -1

    def is_missed(self, told: ToldFile | None, beats: int) -> bool:
        """Take the file as it is with the guest's ``beats``-th beat; say whether it has been so for too long."""
        if not self._shared.heartbeat or beats == self._beats:
            return False
        now_s, mark = self._clock(), told.mtime_ns if told is not None else 0
        if mark == self._mark:
            self._same_s += min(now_s - self._looked_s, MOST_BETWEEN_BEATS_S)
        else:
            self._mark, self._same_s = mark, 0.0
        self._beats, self._looked_s = beats, now_s
        return self._same_s > self._shared.heartbeat_s


class _Gathering(Struct):
    since_s: float
    #: None: what the completion file says in the end.
    ending: SlotEnding | None
    #: The beat that tells of all that is to be had.
    from_beat: int
    #: Outputs that were there with it.
    names: frozenset[str] | None = None


def _read_names(path: Path) -> set[str]:
    try:
        return set(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (OSError, msgspec.MsgspecError):
        return set()
