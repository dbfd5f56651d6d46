"""The report of a job's outputs, by which PanDA's daemon registers them: each with a GUID, its size and checksum. Pure.

A GUID is made of the job, its try and the file's name, so that the same is said each time. An output that no grid's
store has is not in it: PanDA would have it where nobody finds it.
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from adapters.sources.contract import GridEnding

#: Whose names these GUIDs are made in.
_NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "volunteer-cloud:panda")


def log_word(url: str, adler32: str, size: int) -> str:
    """Say where a log is and what it is, in a word that is kept with the job."""
    return f"{url}#adler32={adler32}&size={size}"


def log_of(word: str) -> dict[str, Any] | None:
    """Read what ``log_word`` has written; None where it is none."""
    parts = urlsplit(word)
    facts = dict(parse_qsl(parts.fragment))
    if not facts.get("adler32") or not facts.get("size", "").isdigit():
        return None
    return {"fsize": int(facts["size"]), "adler32": facts["adler32"], "surl": parts._replace(fragment="").geturl()}


def output_report(ending: GridEnding, log_file: str, log_guid: str) -> dict[str, dict[str, Any]]:
    """Give the report: the outputs that a grid's store has, and the log that PanDA has."""
    report: dict[str, dict[str, Any]] = {
        one.name: {"guid": guid_of(ending, one.name), "fsize": one.size, "adler32": one.adler32, "surl": one.url}
        for one in ending.outputs
        if one.adler32 and one.url
    }
    log = log_of(ending.sandbox)
    if log_file and log is not None:
        report[log_file] = {"guid": log_guid or guid_of(ending, log_file), **log}
    return report


def guid_of(ending: GridEnding, name: str) -> str:
    """Make the GUID of an output."""
    return str(uuid.uuid5(_NAMES, f"{ending.job.id}:{ending.job.attempt}:{name}"))
