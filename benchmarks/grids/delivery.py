"""Outputs on their way to a grid: into XRootD, compared there, registered in Rucio, beside what a person would type.

Ours begins with jobs that have all ended, each with one output in the centre's store, and ends when the last final
status is told. The peer copies as many files by ``xrdcp``, one after the other, and registers them with Rucio's own
client, a hundred in a call; it compares nothing and writes nothing down.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
import zlib
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from adapters.ledger import submissions
from adapters.ledger.acquisitions import owner_of
from adapters.ledger.completions import complete_all
from adapters.ledger.engine import Ledger
from adapters.ledger.submissions import CheckedSubmission, Origin
from adapters.sources.contract import GridJob
from adapters.storage.store import FsspecStore
from benchmarks.alternation import alternate
from benchmarks.arena import Arena
from benchmarks.figures import Figure
from benchmarks.grids.beside import adapter
from benchmarks.grids.storage import SCOPE, Storage, storage
from benchmarks.ledger.world import BATCH, World, busy, request, vm_name
from schemas.description import JobDescription, Output
from schemas.files import OutputFile
from schemas.jobs import JobAssign, JobCompletion, Outcome, OutputEntry
from schemas.ledger import JobSubmit
from tests.catalogues.conftest import RSE

#: Outputs of one run, and of a quick one; and their size, bytes.
FILES, QUICK_FILES, FILE_BYTES = 1000, 100, 100_000
#: Files that the peer registers in a call.
HUNDRED = 100
_OUTPUT = "result.root"
_numbers = count(1)
_ADD = """
import json, sys, time
from rucio.client import Client
client, files = Client(), json.load(open(sys.argv[1]))
client.whoami()
began = time.perf_counter()
for start in range(0, len(files), {hundred}):
    client.add_replicas({rse!r}, files[start : start + {hundred}])
print(time.perf_counter() - began)
"""


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure files per second in turns."""
    files = QUICK_FILES if quick else FILES
    with storage(arena.directory) as where:
        contestants = {
            "ours": partial(_delivered_per_second, arena, where, files),
            "by hand": partial(_by_hand, arena.directory, where, files),
        }
        reached = alternate(contestants, runs, "files/s")
    return [
        Figure(
            name="delivery, beside xrdcp in a loop",
            unit="files/s",
            ours=reached["ours"],
            peer=reached["by hand"],
            goal=1.0,
        )
    ]


def _delivered_per_second(arena: Arena, where: Storage, files: int) -> float:
    name = f"out{next(_numbers)}"
    with tempfile.TemporaryDirectory(dir=arena.directory) as place:
        ledger, store = f"sqlite:///{place}/ledger.db", f"file://{place}/store"
        _let_end(name, ledger, store, files)
        told = {"grid_store": where.grid_store, "catalogue": where.catalogue}
        source = {"kind": "memory", "jobs": files}
        with adapter(arena, name, ledger=ledger, store=store, source=source, **told) as one:
            began = one.wait_begun()
            return files / (one.wait_told(files) - began)


def _let_end(name: str, url: str, store_url: str, files: int) -> None:
    """Fill a ledger with jobs of a source that have ended, and a store with what they have left."""
    ledger, store = Ledger(url, instance="adapter-job-1"), FsspecStore(store_url)
    ledger.open()
    world = World(ledger, files, files)
    for start in range(0, files, BATCH):
        some = range(start, min(start + BATCH, files))
        given = [(owner_of(name), _submission(name, number)) for number in some]
        world.write(lambda tx, given=given: submissions.submit_all(tx, given))
        jobs = world.ask(*((vm_name(number), request(busy(number))) for number in some))
        ends = [(job.target, _end(job, store)) for job in jobs]
        world.write(lambda tx, ends=ends: complete_all(tx, ends))
    ledger.close()


def _submission(name: str, number: int) -> CheckedSubmission:
    """Describe a job as the source in memory knows it, by numbers from 1."""
    grid_job = GridJob(id=str(number + 1))
    job = JobDescription(id=f"{grid_job.id}-1", executable="/bin/true", outputs=[Output(name=_OUTPUT)])
    return submissions.check(JobSubmit(job=job), lambda _: True, Origin(name, msgspec.msgpack.encode(grid_job)))


def _end(job: JobAssign, store: FsspecStore) -> JobCompletion:
    content = os.urandom(FILE_BYTES)
    store.put_bytes(content, OutputFile(job=job.job, attempt=job.attempt, name=_OUTPUT))
    entry = OutputEntry(name=_OUTPUT, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return JobCompletion(
        job=job.job, attempt=job.attempt, outcome=Outcome.DONE, exit_status=0, generation=1, outputs=[entry]
    )


def _by_hand(directory: Path, where: Storage, files: int) -> float:
    run = f"by-hand-{next(_numbers)}"
    with tempfile.TemporaryDirectory(dir=directory) as place:
        rows = []
        for number in range(files):
            content = os.urandom(FILE_BYTES)
            (Path(place) / f"{number}").write_bytes(content)
            name = f"{run}/{number}"
            facts = {"bytes": len(content), "adler32": f"{zlib.adler32(content):08x}", "pfn": f"{where.url}/{name}"}
            rows.append({"scope": SCOPE, "name": name, **facts})
        began = time.perf_counter()
        for number, row in enumerate(rows):
            subprocess.run(["xrdcp", "--silent", "--path", f"{place}/{number}", row["pfn"]], check=True, timeout=60)
        copied_s = time.perf_counter() - began
        listed = Path(place) / "rows.json"
        listed.write_text(json.dumps(rows))
        return files / (copied_s + float(where.rucio(_ADD.format(hundred=HUNDRED, rse=RSE), str(listed))))
