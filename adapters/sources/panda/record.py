"""A job as PanDA hands it out: from JSON, or the query string of old servers, to the fields that we read. Pure.

Only what is named here is ever decoded: pilots' and users' secrets and keys of proxies are in the same record. Missing
values are the word ``NULL``, nothing, or zero, as it happens; numbers may be texts.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct, field

from adapters.errors import PandaJobError
from adapters.sources.names import quoted
from schemas.codec import UNREADABLE, clip
from schemas.plain_text import plain

#: A job's number at PanDA.
PandaId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
#: Highest number of a try.
MOST_ATTEMPTS = 999_999
#: Fields of a query string; a record has some 80.
_MOST_FIELDS = 1000
_NOTHING = ("", "NULL", "None")

Value = str | int | float | bool | None


class PandaRecord(Struct, frozen=True, kw_only=True):
    """What is read of a job. The names are PanDA's."""

    panda_id: Value = field(name="PandaID", default=None)
    attempt_nr: Value = field(name="attemptNr", default=None)
    task_id: Value = field(name="taskID", default=None)
    transformation: Value = None
    job_pars: Value = field(name="jobPars", default=None)
    in_files: Value = field(name="inFiles", default=None)
    guids: Value = field(name="GUID", default=None)
    scopes_in: Value = field(name="scopeIn", default=None)
    checksums: Value = field(name="checksum", default=None)
    sizes: Value = field(name="fsize", default=None)
    endpoints_in: Value = field(name="ddmEndPointIn", default=None)
    out_files: Value = field(name="outFiles", default=None)
    log_file: Value = field(name="logFile", default=None)
    log_guid: Value = field(name="logGUID", default=None)
    cores: Value = field(name="coreCount", default=None)
    memory: Value = field(name="minRamCount", default=None)
    disk: Value = field(name="maxDiskCount", default=None)
    wall_time: Value = field(name="maxWalltime", default=None)
    cpu_time: Value = field(name="maxCpuCount", default=None)
    priority: Value = field(name="currentPriority", default=None)
    container: Value = field(name="container_name", default=None)
    event_service: Value = field(name="eventService", default=None)
    merge: Value = field(name="eventServiceMerge", default=None)
    hyper_parameters: Value = field(name="isHPO", default=None)
    cloned: Value = field(name="cloneJob", default=None)
    pre_process: Value = field(name="preprocess", default=None)
    post_process: Value = field(name="postprocess", default=None)
    co_process: Value = field(name="coprocess", default=None)

    def text(self, name: str) -> str:
        """Give a field as text; empty where it says nothing."""
        value = getattr(self, name)
        said = "" if value is None else str(value).strip()
        return "" if said in _NOTHING else said

    def items(self, name: str) -> list[str]:
        """Give the members of a comma list; those that say nothing are empty."""
        said = self.text(name)
        return ["" if one.strip() in _NOTHING else one.strip() for one in said.split(",")] if said else []

    def number(self, name: str, least: float, most: float) -> float | None:
        """Give a field as a number; None where it says nothing, or zero. Raises PandaJobError."""
        said = self.text(name)
        try:
            number = float(said or 0)
        except ValueError:
            raise PandaJobError(wire_name(name), f"{quoted(said)}: must be a number") from None
        if not least <= number <= most and number:  # what is no number is not within either
            raise PandaJobError(wire_name(name), f"{quoted(said)}: must be from {least:g} to {most:g}, or 0 for any")
        return number or None


class PandaJob(Struct, frozen=True):
    """A job's name at PanDA, and its record; or what is wrong with that."""

    id: PandaId
    attempt_nr: int
    record: PandaRecord | PandaJobError


def wire_name(name: str) -> str:
    """Give PanDA's name of a field."""
    return next((one.encode_name for one in msgspec.structs.fields(PandaRecord) if one.name == name), name)


class _Name(Struct):
    panda_id: Value = field(name="PandaID", default=None)
    attempt_nr: Value = field(name="attemptNr", default=None)


def read_job(raw: bytes) -> PandaJob | None:
    """Read a job of an answer, in JSON; None: it cannot even be named. Never raises."""
    try:
        named = msgspec.json.decode(raw, type=_Name)
    except UNREADABLE:
        return None
    try:
        record: PandaRecord | PandaJobError = msgspec.json.decode(raw, type=PandaRecord)
    except UNREADABLE as error:
        record = PandaJobError("", f"the description cannot be read: {plain(clip(str(error), 200))}")
    return _named(named.panda_id, named.attempt_nr, record)


def read_query(text: str) -> PandaJob | None:
    """Read a job in the query string of old servers; None: it cannot be named. Never raises."""
    try:
        pairs = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        record = msgspec.convert(pairs, PandaRecord)
    except (ValueError, msgspec.ValidationError):
        return None
    return _named(record.panda_id, record.attempt_nr, record)


def _named(panda_id: Value, attempt_nr: Value, record: PandaRecord | PandaJobError) -> PandaJob | None:
    try:
        number, attempt = int(str(panda_id)), int(0 if attempt_nr in (None, *_NOTHING) else str(attempt_nr))
    except ValueError:
        return None
    if not 1 <= number < 1 << 63:
        return None
    if not 0 <= attempt <= MOST_ATTEMPTS:
        flaw = PandaJobError("attemptNr", f"{quoted(str(attempt_nr))}: must be from 0 to {MOST_ATTEMPTS}")
        return PandaJob(number, min(max(attempt, 0), MOST_ATTEMPTS), flaw)
    return PandaJob(number, attempt, record)
