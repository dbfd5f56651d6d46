"""What a guest has told of its job, and what its host wants of the job's files; it goes with the answers to beats."""

from __future__ import annotations

import msgspec

from host_agent.own_centre.storage import GuestFiles
from schemas.ids import JobRef
from schemas.jobs import HandedFile, Holding, JobBeatAnswer, OutputEntry, ToldFile, ToldRef

#: Files that go with one answer.
_MOST_HANDED = 8


class HeardJob:
    """See the module."""

    def __init__(self, job: JobRef, files: GuestFiles) -> None:
        self._job, self._files = job, files
        #: What the guest has said of the job last; None: nothing, or that it does not hold it. And how often.
        self.holding: Holding | None = None
        self.beats = 0
        #: By name, as it was told of: files that are to go, and outputs that are wanted early.
        self._removes: dict[str, ToldFile] = {}
        self._wants: dict[str, ToldFile] = {}
        #: By name, what the job is handed while it runs.
        self._hands: dict[str, bytes] = {}

    def hear(self, holding: Holding | None) -> None:
        """Take what a beat says of it."""
        self.holding = holding
        self.beats += 1

    def wishes(self, answer: JobBeatAnswer, attempt: int) -> JobBeatAnswer:
        """Put what is wanted of the files of an attempt into the answer to a beat."""
        return msgspec.structs.replace(
            answer,
            removes=self._refs(self._removes, attempt),
            wants=[ref for ref in self._refs(self._wants, attempt) if self.early(ref.name) is None],
            hands=self._files_to_hand(attempt),
        )

    def told(self, name: str) -> ToldFile | None:
        """Give a file of the job's as the guest has told of it last; None where there is none, or the job has ended."""
        return next((one for one in self.holding.told if one.name == name), None) if self.holding is not None else None

    def remove(self, told: ToldFile) -> None:
        """Have a file removed in the guest, as it was told of; one that has changed since stays."""
        self._removes[told.name] = told

    def want(self, told: ToldFile) -> None:
        """Have an output now, as it was told of; ``early`` gives it once it has come."""
        self._wants[told.name] = told

    def hand(self, name: str, content: bytes) -> None:
        """Have a file stand in the job's directory, now or as soon as it runs; ``has`` tells when it does."""
        self._hands[name] = content

    def has(self, name: str) -> bool:
        """Whether the job was handed a file."""
        return self.holding is not None and name in self.holding.handed

    def early(self, name: str) -> OutputEntry | None:
        """Give an output that was wanted and has come; None before that."""
        stored = self.holding.stored if self.holding is not None else []
        return next((one for one in stored if one.name == name and self._files.is_here(one)), None)

    def _files_to_hand(self, attempt: int) -> list[HandedFile]:
        """Give what the attempt that counts was not handed yet, a few at a time."""
        self._hands = {name: content for name, content in self._hands.items() if not self.has(name)}
        files = [
            HandedFile(job=self._job, attempt=attempt, name=name, content=one) for name, one in self._hands.items()
        ]
        return files[:_MOST_HANDED] if self.holding is not None else []

    def _refs(self, of: dict[str, ToldFile], attempt: int) -> list[ToldRef]:
        """Name files by the attempt that counts; those that are as they were told of no more are forgotten."""
        for name, told in [*of.items()]:
            now = self.told(name)
            if now is None or (of is self._removes and now.mtime_ns != told.mtime_ns):
                del of[name]
        return [ToldRef(job=self._job, attempt=attempt, name=name, mtime_ns=told.mtime_ns) for name, told in of.items()]
