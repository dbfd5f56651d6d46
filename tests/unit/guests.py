"""A guest without a broker, for tests of attempts: real payloads in real containers, inputs and a store at hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.errors import TransferFailed
from guest_agent.accounts import Account
from guest_agent.attempt import Attempt
from guest_agent.attempt_journal import Conclusion, Past
from guest_agent.cache import InputCache
from guest_agent.container import Container
from guest_agent.disk import Disk
from guest_agent.resources import Resources
from guest_agent.slot_directory import SlotDirectory
from schemas.description import Input
from schemas.errors import ErrorCode
from schemas.jobs import JobAssign, JobCompletion, OutputEntry


class Pages:
    """A journal in memory: what is written down is there, in the order in which it was."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.conclusions: list[Conclusion] = []
        self.ended: list[str] = []
        self.pasts: dict[str, Past] = {}
        #: Raised by each ``begin`` or ``conclude``, as often as there are.
        self.troubles: list[OSError] = []

    async def begin(self, commands: Sequence[str]) -> None:
        self._stumble()
        self.begun += commands

    async def conclude(self, command: str, conclusion: Conclusion, *, within_s: float = 0.0) -> None:
        self._stumble()
        self.conclusions.append(conclusion)

    async def end(self, command: str) -> None:
        self.ended.append(command)

    def past(self, command: str) -> Past:
        return self.pasts.get(command, Past())

    def _stumble(self) -> None:
        if self.troubles:
            raise self.troubles.pop(0)


class Guest:
    """See the module. One slot; payloads have ``account``."""

    def __init__(self, directory: Path, account: Account | None = None, **resources: Any) -> None:
        self.directory = directory
        self.inputs: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.full_for = 0
        #: With what the store refuses while it is full, and whether that holds for what is fetched from it too.
        self.refusal, self.gives_while_full = ErrorCode.STORE, True
        self.journal = Pages()
        (directory / "jobs").mkdir(exist_ok=True)
        (directory / "jobs").chmod(0o711)
        (directory / "aside").mkdir(exist_ok=True)
        self.slot_directory = SlotDirectory(directory / "jobs" / "slot-0", account)
        self.container = Container(self.slot_directory, cover=directory)
        cache = InputCache(directory / "cache", self.fetch)
        fields: dict[str, Any] = {
            "containers": [self.container],
            "cache": cache,
            "disk": Disk(directory / "jobs", cache),
            "journal": self.journal,
            "aside": directory / "aside",
            "boot_id": "boot",
            "boot_before": "boot",
            "store_patience_s": 5.0,
        }
        self.resources = Resources(**(fields | resources))

    def attempt(self, *command: str, **fields: Any) -> Attempt:
        fields = {"job": "site-a/j.1", "attempt": 1, "slot": 0, "grace_s": 1.0, **fields}
        assign = JobAssign(executable=command[0], arguments=list(command[1:]), **fields)
        return Attempt(assign, 0, self.resources, self.store)

    def input(self, name: str, content: bytes, **fields: Any) -> Input:
        sha256 = hashlib.sha256(content).hexdigest()
        self.inputs[sha256] = content
        return Input(name=name, sha256=sha256, size=len(content), **fields)

    async def fetch(self, sha256: str, target: Path, partial: Path) -> None:
        self.fetches.append(sha256)
        await asyncio.sleep(0)
        if not self.gives_while_full:
            self._refuse_while_full()
        if sha256 not in self.inputs:
            raise TransferFailed(ErrorCode.NOT_FOUND, f"input {sha256} is not in the store")
        target.write_bytes(self.inputs[sha256])

    async def store(self, path: Path, name: str) -> OutputEntry:
        self._refuse_while_full()
        self.stored[name] = path.read_bytes()
        return OutputEntry(name=name, size=path.stat().st_size, sha256="0" * 64)

    def _refuse_while_full(self) -> None:
        if self.full_for:
            self.full_for -= 1
            raise TransferFailed(self.refusal, "no space left on device")

    async def run(self, *command: str, **fields: Any) -> JobCompletion:
        attempt = self.attempt(*command, **fields)
        completion = await attempt.run()
        attempt.discard()
        return completion

    def close(self) -> None:
        self.container.close()


def content_of(completion: JobCompletion, name: str) -> bytes:
    return next(entry.content or b"" for entry in completion.outputs if entry.name == name)
