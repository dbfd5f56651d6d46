"""The one job that a guest has of its host, and which attempt of it counts: what the ledger is to a centre, for one job
of one guest. Kept in a file, whole, before anybody hears of it.

Nobody but this guest can hold the job, so an attempt that is at work there is the one: also one that came back with the
memory of an earlier time. It is lost when the guest says so, or when it has said twice, after it had it, that it does
not hold it; the next one comes after a while, and not for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import CentreUnreadable
from host_agent.own_centre.guest_job import GuestJob, GuestJobEnd
from schemas.ids import JobRef
from schemas.jobs import AttemptRef, Holding, JobCompletion, Outcome, Phase

#: Attempts that are lost before the job is given up.
MOST_LOST = 20
#: Looks at what a guest holds in which the attempt is missing, until it is lost.
LOOKS = 2
#: The wait after the first loss, and the longest, seconds.
AFTER_LOSS_S, MOST_AFTER_LOSS_S = 1.0, 300.0
#: An attempt that is in one of these is at work: one that is not may wait for the answer to its end.
_AT_WORK = frozenset({Phase.STAGE_IN, Phase.RUNNING, Phase.VALIDATING})


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the file holds."""

    job: JobRef
    #: The attempt that counts, and the highest that was handed out.
    attempt: int = 0
    highest: int = 0
    #: Attempts of which the guest has said that they are lost, or has shown it.
    lost: list[int] = []
    end: GuestJobEnd | None = None


class JobOrder:
    """See the module. Blocking, small."""

    def __init__(self, path: Path, job: GuestJob, clock: Callable[[], float] = time.monotonic) -> None:
        """Take up what is kept of this job. Raises CentreUnreadable, OSError."""
        self._path, self.job, self._clock = path, job, clock
        self._kept = self._read()
        self._missed = 0
        self._not_before_s = 0.0

    @property
    def attempt(self) -> int:
        """The attempt that counts; 0: none was handed out."""
        return self._kept.attempt

    @property
    def end(self) -> GuestJobEnd | None:
        """How it ended; None while it has not."""
        return self._kept.end

    def is_due(self) -> bool:
        """Whether the guest is to be given it now: it never had it, or has lost it, a while ago. Raises OSError."""
        if self.end is not None:
            return False
        if self._missed >= LOOKS and self.attempt not in (0, *self._kept.lost):
            self._lose("the guest does not know it any more")
        is_without = self.attempt == 0 or self.attempt in self._kept.lost
        return self.end is None and is_without and self._clock() >= self._not_before_s

    def hand_out(self) -> int:
        """Give the number of the next attempt, durably. Raises OSError."""
        number = self._kept.highest + 1
        self._keep(msgspec.structs.replace(self._kept, attempt=number, highest=number))
        self._missed = 0
        return number

    def look(self, holding: Sequence[Holding], *, counts: bool) -> list[AttemptRef]:
        """Take what the guest holds; give what of it is of no use to anybody. Only what was said after the attempt had
        come to the guest ``counts`` where that is missing. Raises OSError."""
        ours = [one for one in holding if one.job == self.job.ref and 0 < one.attempt <= self._kept.highest]
        held = [one.attempt for one in ours if one.attempt not in self._kept.lost or one.phase in _AT_WORK]
        if held and self.end is None and self.attempt not in held:
            back = max(held)
            lost = [number for number in self._kept.lost if number != back]
            self._keep(msgspec.structs.replace(self._kept, attempt=back, lost=lost))
        self._missed = 0 if self.attempt in held else self._missed + counts
        useless = [one for one in holding if self.end or (one.job, one.attempt) != (self.job.ref, self.attempt)]
        return [AttemptRef(job=one.job, attempt=one.attempt) for one in useless]

    def conclude(self, completion: JobCompletion) -> bool:
        """Take the end of an attempt, durably. False: it counts for nothing. Raises OSError."""
        if not self.is_open_to(completion):
            return False
        if completion.outcome not in (Outcome.DONE, Outcome.FAILED):
            # Nobody cancels a host's own job: one that was cancelled was none that counted, when it was stopped.
            if completion.attempt == self.attempt and self.attempt not in self._kept.lost:
                self._lose(completion.cause)
            return True
        if completion.outcome is Outcome.FAILED and completion.attempt != self.attempt and not self._missed:
            return False
        self._end(completion)
        return True

    def is_open_to(self, completion: JobCompletion) -> bool:
        """Whether the end of an attempt of this job could count."""
        return completion.job == self.job.ref and self.end is None and 0 < completion.attempt <= self._kept.highest

    def _lose(self, cause: str) -> None:
        lost = [*self._kept.lost, self.attempt]
        self._keep(msgspec.structs.replace(self._kept, lost=lost))
        self._not_before_s = self._clock() + min(AFTER_LOSS_S * 2 ** (len(lost) - 1), MOST_AFTER_LOSS_S)
        if len(lost) >= MOST_LOST:
            text = f"lost {len(lost)} times; the last time: {cause or 'nobody knows why'}"
            self._end(JobCompletion(job=self.job.ref, attempt=self.attempt, outcome=Outcome.LOST, cause=text))

    def _end(self, completion: JobCompletion) -> None:
        end = GuestJobEnd(
            outcome=completion.outcome,
            attempt=completion.attempt,
            exit_status=completion.exit_status,
            cause=completion.cause,
            usage=completion.usage,
            outputs=tuple(completion.outputs),
        )
        self._keep(msgspec.structs.replace(self._kept, end=end))

    def _read(self) -> _Kept:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return _Kept(job=self.job.ref)
        except msgspec.MsgspecError as error:
            raise CentreUnreadable(f"{self._path}: is damaged: {error}; remove it, and the job begins anew") from error
        return kept if kept.job == self.job.ref else _Kept(job=self.job.ref)

    def _keep(self, kept: _Kept) -> None:
        durable.replace(self._path, msgspec.json.encode(kept))
        self._kept = kept
