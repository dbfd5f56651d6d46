"""Sandboxes: archives in which files come and go. They are packed and unpacked here: a guest needs ``tar`` alone.

Which archive comes is checked by the digest in its name.
"""

from __future__ import annotations

import bz2
import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import which
from typing import BinaryIO

from adapters.errors import SourceDenied, SourceRefused, SourceUnavailable
from adapters.sources.dirac.client import DiracClient
from adapters.sources.dirac.work import SANDBOX
from adapters.sources.http import Budget, Http
from adapters.sources.inflow import flowing_in
from adapters.sources.packing import packed

#: Longest sandbox that DiracX takes, and what one may have in it when it is unpacked, bytes.
MOST_BYTES, MOST_UNPACKED_BYTES = 100 << 20, 2 << 30
_BLOCK = 1 << 20
#: What a digest in a name is of, and how the archive is packed.
ENDING = "tar.bz2"


class Sandboxes:
    """The sandboxes of a DiracX server."""

    def __init__(self, client: DiracClient, http: Http) -> None:
        self._client, self._http = client, http

    def fetch(self, where: str, target: Path, budget: Budget) -> None:
        """Fetch a sandbox into a new file, in place of what an earlier call has left of it, as a plain tar archive.
        Raises SourceError."""
        named = SANDBOX.fullmatch(where)
        if named is None:
            raise SourceRefused(f"{where[:200]!r}: is no sandbox of DiracX")
        packed = target.with_name(f"{target.name}.packed")
        for path in (packed, target):
            path.unlink(missing_ok=True)
        try:
            digest = self._http.download(self._client.sandbox_url(where, budget), packed, MOST_BYTES, budget)
            if digest != named[1]:
                raise SourceUnavailable(f"the sandbox {named[1][:12]}… came with another digest, {digest[:12]}…")
            _unpack(packed, named[2], target, budget)
        finally:
            packed.unlink(missing_ok=True)

    def store(self, job: int, files: Mapping[str, Path], budget: Budget) -> str:
        """Store files by their names as a job's output sandbox; gives its name. Idempotent. Raises SourceError."""
        with packed(files, MOST_BYTES, "an output sandbox", budget) as archive:
            place = self._client.sandbox_place(archive.sha256, archive.length, ENDING, budget)
            if place.url is not None:
                self._http.upload(place.url, place.fields, archive.file, budget)
        return self._assigned(job, place.pfn, budget)

    def _assigned(self, job: int, pfn: str, budget: Budget) -> str:
        try:
            self._client.assign_sandbox(job, pfn, budget)
        except (SourceDenied, SourceRefused):
            if pfn.rpartition("|")[2] not in self._client.output_sandboxes(job, budget):
                raise
        return pfn


def _unpack(packed: Path, ending: str, target: Path, budget: Budget) -> None:
    """Write the tar archive that is in a packed one. Raises SourceRefused for what is none, or too much, and
    NoStagingRoom."""
    with flowing_in(target, "a sandbox, unpacked") as file, _unpacked(packed, ending) as source:
        size = 0
        while block := _next(source):
            size += len(block)
            if size > MOST_UNPACKED_BYTES:
                raise SourceRefused(f"a sandbox with more than {MOST_UNPACKED_BYTES >> 30} GiB in it")
            file.write(block)
            budget.left_s()


def _next(source: BinaryIO) -> bytes:
    try:
        return source.read(_BLOCK)
    except (OSError, EOFError, ValueError) as error:
        raise SourceRefused(f"a sandbox that cannot be unpacked: {error}") from error


@contextlib.contextmanager
def _unpacked(packed: Path, ending: str) -> Iterator[BinaryIO]:
    if ending == "tar.bz2":
        with bz2.open(packed, "rb") as source:
            yield source  # type: ignore[misc]
        return
    program = which("zstd")
    if program is None:
        raise SourceUnavailable("a sandbox packed by zstd: the program zstd is not installed here")
    with subprocess.Popen(
        [program, "-dcq", "--memory=128MB", str(packed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            if process.stdout is None:
                raise SourceUnavailable("zstd has no output")
            yield process.stdout  # type: ignore[misc]
            if process.wait(timeout=10):
                raise SourceRefused("a sandbox that zstd cannot unpack")
        finally:
            process.kill()
