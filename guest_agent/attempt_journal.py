"""What a guest has written down of its attempts in its journal: that they begin, how they ended, that it was answered.

One sync of the disk serves all that has gathered. What is here survives kill -9 and a power cut: an attempt that had
begun is never begun again, and one that had ended is told by the next agent as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.inbound import recall
from broker.outbound import body_of
from broker.rpc import Journal
from schemas.errors import DecodeError
from schemas.jobs import JobAssign, JobCompletion


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, and what of its outputs still lies in the guest."""

    completion: JobCompletion
    #: Outputs in its directory that are yet to be stored.
    outputs: Sequence[str] = ()
    #: Names of streams in its slot's directory that are yet to be stored, and whether they were cut.
    streams: Sequence[tuple[str, bool]] = ()


class _Kept(msgspec.Struct, array_like=True):
    completion: bytes
    outputs: list[str]
    streams: list[tuple[str, bool]]


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent before us has written down of an attempt."""

    begun: bool = False
    conclusion: Conclusion | None = None


class AttemptJournal:
    """See the module. Each method returns when what it says is durable; OSError where the disk does not take it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def begin(self, commands: Sequence[str]) -> None:
        """Write down that these attempts begin."""
        await self._journal.start_all(commands)

    async def conclude(self, command: str, conclusion: Conclusion, *, within_s: float = 0.0) -> None:
        """Write down how an attempt ended, in place of what was written before; with others that end ``within_s``."""
        kept = _Kept(body_of(conclusion.completion), [*conclusion.outputs], [*conclusion.streams])
        await self._journal.note(command, msgspec.msgpack.encode(kept), within_s=within_s)

    async def end(self, command: str) -> None:
        """Write down that the ledger has answered: there is nothing more to tell."""
        await self._journal.end(command, b"")

    def past(self, command: str) -> Past:
        """Give what is written of an attempt."""
        entry = self._journal.get(command)
        if entry is None:
            return Past()
        return Past(begun=entry.started, conclusion=_read(entry.note) if entry.note else None)

    def unanswered(self) -> list[tuple[JobAssign, Past]]:
        """List the assignments that an agent before us took and the ledger has not answered."""
        found = []
        for entry in self._journal.unfinished():
            command = recall(entry.command) if entry.command else None
            if isinstance(command, JobAssign):
                found.append((command, self.past(entry.id)))
        return found


def _read(note: bytes) -> Conclusion | None:
    """Read a conclusion; None for one of a version whose words we do not have: it is lost then, and told as that."""
    try:
        kept = msgspec.msgpack.decode(note, type=_Kept)
        completion = recall(kept.completion)
    except (msgspec.MsgspecError, DecodeError):
        return None
    if not isinstance(completion, JobCompletion):
        return None
    return Conclusion(completion=completion, outputs=kept.outputs, streams=kept.streams)
