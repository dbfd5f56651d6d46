"""The one job that a guest has of its host, and which attempt of it counts: what the ledger is to a centre, for one job
of one guest. Kept in a file, whole, before anybody hears of it.

Nobody but this guest can hold the job, so an attempt that it holds is the one: also one that came back with the memory
of an earlier time. It is lost only when the guest has said twice, after it had it, that it does not hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import CentreUnreadable
from host_agent.own_centre.guest_job import GuestJob, GuestJobEnd
from schemas.ids import JobRef
from schemas.jobs import AttemptRef, JobCompletion, Outcome

#: Attempts that are lost, with the guest or without, before the job is given up.
MOST_LOST = 20
#: Looks at what a guest holds in which the attempt is missing, until it is lost.
LOOKS = 2


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the file holds."""

    job: JobRef
    attempt: int = 0
    end: GuestJobEnd | None = None


class JobOrder:
    """See the module. Blocking, small."""

    def __init__(self, path: Path, job: GuestJob) -> None:
        """Take up what is kept of this job. Raises CentreUnreadable, OSError."""
        self._path, self.job = path, job
        self._kept = self._read()
        self._missed = 0

    @property
    def attempt(self) -> int:
        """The attempt that counts; 0: none was handed out."""
        return self._kept.attempt

    @property
    def end(self) -> GuestJobEnd | None:
        """How it ended; None while it has not."""
        return self._kept.end

    def is_due(self) -> bool:
        """Whether the guest is to be given it now: it never had it, or has lost it."""
        return self.end is None and (self.attempt == 0 or self._missed >= LOOKS)

    def hand_out(self) -> int:
        """Give the number of the next attempt, durably. Raises OSError."""
        self._keep(msgspec.structs.replace(self._kept, attempt=self.attempt + 1))
        self._missed = 0
        return self.attempt

    def look(self, holding: Sequence[AttemptRef], *, counts: bool) -> list[AttemptRef]:
        """Take what the guest holds; give what of it is of no use to anybody. Only what was said after the attempt had
        come to the guest ``counts`` where that is missing. Raises OSError."""
        ours = [one.attempt for one in holding if one.job == self.job.ref] if self.end is None else []
        if ours and self.attempt not in ours:
            self._keep(msgspec.structs.replace(self._kept, attempt=max(ours)))
        self._missed = 0 if ours else self._missed + counts
        return [one for one in holding if (one.job, one.attempt) != (self.job.ref, self.attempt) or self.end]

    def conclude(self, completion: JobCompletion) -> bool:
        """Take the end of an attempt, durably. False: it counts for nothing. Raises OSError."""
        if completion.job != self.job.ref or self.end is not None:
            return False
        if completion.outcome is not Outcome.DONE and completion.attempt != self.attempt:
            return False
        if completion.outcome in (Outcome.LOST, Outcome.RETURNED) and self.attempt < MOST_LOST:
            self._missed = LOOKS
            return True
        end = GuestJobEnd(
            outcome=completion.outcome,
            attempt=completion.attempt,
            exit_status=completion.exit_status,
            cause=completion.cause,
            usage=completion.usage,
            outputs=tuple(completion.outputs),
        )
        self._keep(msgspec.structs.replace(self._kept, end=end))
        return True

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
