"""What a source has given as the ledger keeps it. Pure."""

from __future__ import annotations

import msgspec

from adapters.ledger.acquisitions import Acquisition, AcquisitionKey
from adapters.sources.contract import MOST_DATA_BYTES, MOST_ID, Acquired, GridJob, GridWork

#: Longest description of what a job asks for, bytes.
MOST_WORK_BYTES = 1 << 20


def key_of(name: str, job: GridJob) -> AcquisitionKey:
    """Name a job of the source of this name in the ledger."""
    return AcquisitionKey(name, job.id[:MOST_ID], job.attempt)


def row_of(name: str, given: Acquired) -> Acquisition:
    """Make what is written down of a job that the source of this name has given; what is out of bounds is its flaw."""
    job = given.job
    key = key_of(name, job)
    work = b"" if given.work is None else msgspec.msgpack.encode(given.work)
    flaw = given.flaw or ("" if given.work else "its source could not say what is to be done")
    if given.work is not None and len(work) > MOST_WORK_BYTES:
        flaw = _too_long(given.work)
    if len(job.data) > MOST_DATA_BYTES:
        flaw = f"its source keeps {len(job.data)} bytes with it: at most {MOST_DATA_BYTES} are kept"
    return Acquisition(key=key, data=job.data[:MOST_DATA_BYTES], work=b"" if flaw else work, flaw=flaw)


def _too_long(work: GridWork) -> str:
    sizes = {name: len(msgspec.msgpack.encode(value)) for name, value in msgspec.structs.asdict(work).items()}
    largest = max(sizes, key=lambda name: sizes[name])
    return f"its {largest} has {sizes[largest]} bytes: at most {MOST_WORK_BYTES} go into a job in all; send a file"
