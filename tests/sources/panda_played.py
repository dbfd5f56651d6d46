"""The grid that the stand-in of PanDA plays, as the suite of all sources sees one; and sources for PanDA servers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec

from adapters.sources.contract import GridJob, GridSource, GridWork
from adapters.sources.panda import make_panda
from adapters.sources.panda.settings import PandaSettings
from adapters.sources.panda.states import KILLED
from tests.sources.panda_jobs import QUEUE, SCOPE, PandaGrid, file, job
from tests.sources.panda_standin import PandaStandIn
from tests.sources.panda_tokens import PRODUCTION


def token_file(path: Path, token: str) -> str:
    """Write a token as whatever renews it does."""
    path.touch(0o600)
    path.write_text(token)
    return str(path)


def settings_for(grid: PandaGrid, directory: Path, **changes: Any) -> PandaSettings:
    """Give the settings of a source for a server, with a token in that directory."""
    usual = PandaSettings(
        url=grid.url,
        queue=QUEUE,
        label="user",
        token=token_file(directory / "panda.token", grid.pilot()),
        origin=PRODUCTION,
        resource_types={"SCORE": 1, "MCORE": 64},
    )
    return msgspec.structs.replace(usual, **changes)


def system_settings(grid: PandaGrid, directory: Path, **storage: str) -> str:
    """Give the settings of a source as `volcloud up` has them on its line."""
    settings = settings_for(grid, directory)
    table = {"kind": "panda", **{key: getattr(settings, key) for key in ("url", "queue", "label", "token", "origin")}}
    words = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    places = ", ".join(f"{endpoint} = {json.dumps(url)}" for endpoint, url in storage.items())
    return f"{{{', '.join([*words, f'storage = {{{places}}}'])}}}"


class PandaPlayed:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.server = directory, PandaStandIn(tries_again=True)
        self._sources: list[GridSource] = []

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self.server.close()

    def source(self) -> GridSource:
        settings = settings_for(self.server, self.directory, storage={"*": f"{self.server.url}/storage"})
        self._sources.append(make_panda(settings, "panda"))
        return self._sources[-1]

    def submit(self, work: GridWork, files: dict[str, bytes] | None = None) -> None:
        for name, content in (files or {}).items():
            self.server.store(SCOPE, name, content)
        cores = work.requirements.cpus
        asked = job(work.executable, coreCount=cores, resource_type="SCORE" if cores == 1 else "MCORE")
        self.server.submit(asked, [file("input", one.where) for one in work.inputs])

    def kill(self, job: GridJob) -> None:
        self.server.kill(int(job.id))

    def finals(self) -> list[tuple[str, str]]:
        return [(str(job.number), _state(final)) for job in self.server.jobs.values() for final in job.finals]

    def output(self, job: GridJob, name: str) -> bytes:
        [archive] = [body for key, body in self.server.cache.items() if f".{job.id}-{job.attempt}." in key]
        return unpacked(archive)[name]


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Read a job's log."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        found = {one.name: packed.extractfile(one) for one in packed}
        return {name: content.read() for name, content in found.items() if content is not None}


def _state(final: dict[str, Any]) -> str:
    if final["job_status"] == "finished":
        return "done"
    return "cancelled" if final["pilot_error_code"] == KILLED.number else "held"
