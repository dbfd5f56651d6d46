"""Files on their way: inputs from where a grid's storage gives them by HTTP, and logs into the server's cache.

No credential goes to a storage. What comes is held to the size and the checksum that PanDA knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from adapters.errors import SourceUnavailable
from adapters.grid_stores.adler32 import adler32_of, adler32_of_file, blocks_of
from adapters.sources.contract import MOST_INPUT_BYTES, GridInput, GridJob
from adapters.sources.http import Budget, Http, shown
from adapters.sources.packing import packed
from adapters.sources.panda.client import PandaClient
from adapters.sources.panda.files import InputPlace, place_of
from adapters.sources.panda.reports import log_word

#: The longest archive that PanDA's cache takes, bytes.
MOST_LOG_BYTES = 100 << 20
#: PanDA's cache takes more of a file that is called so, and writes it into no table.
LOG_ENDING = "tar.bz2.out"


class Stores:
    """Where inputs come from and logs go to."""

    def __init__(self, client: PandaClient, http: Http, cache_url: str) -> None:
        self._client, self._http, self._cache_url = client, http, cache_url.rstrip("/")

    def fetch(self, wanted: GridInput, target: Path, budget: Budget) -> None:
        """Fetch an input into a new file, in place of what an earlier call has left of it. Raises SourceError."""
        place = place_of(wanted.where)
        target.unlink(missing_ok=True)
        name = f"input {shown(wanted.name)}"
        self._http.download(place.url, target, MOST_INPUT_BYTES, budget, name)
        if flaw := _flaw(target, place):
            raise SourceUnavailable(f"{name} came otherwise than PanDA knows it: {flaw}")

    def store_log(self, job: GridJob, files: Mapping[str, Path], budget: Budget) -> str:
        """Store files by their names as a job's log; gives where it is. Idempotent. Raises SourceError."""
        with packed(files, MOST_LOG_BYTES, "a log in PanDA's cache", budget) as archive:
            adler32 = adler32_of(blocks_of(archive.file))
            name = f"volunteer-cloud.{job.id}-{job.attempt}.{archive.sha256[:16]}.{LOG_ENDING}"
            self._client.upload(name, archive.file, budget)
        return log_word(f"{self._cache_url}/cache/{name}", adler32, archive.length)


def _flaw(path: Path, place: InputPlace) -> str:
    """Say in what a file differs from what it must be; empty where it does not."""
    size = path.stat().st_size
    if place.size >= 0 and size != place.size:
        return f"{size} bytes, and not {place.size}"
    kind, _, digits = place.checksum.partition(":")
    if not digits:
        return ""
    found = adler32_of_file(path) if kind == "ad" else _md5_of_file(path)
    return "" if found == digits else f"{kind}:{found}, and not {place.checksum}"


def _md5_of_file(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for block in blocks_of(file):
            digest.update(block)
    return digest.hexdigest()
