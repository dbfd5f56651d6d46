"""What a copy is called in a grid's store: made of names that strangers chose, and safe wherever it is used.

A copy name has four parts, ``owner/job/attempt/output``. Each begins with a letter or digit and holds nothing but ASCII
letters, digits, ``_``, ``-`` and single dots, so that it means the same in a path, in a URL, to a shell and to a
catalogue; a part that is hidden (``.name``) is never a copy. Two outputs never have one name.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from schemas.ids import JOB_REF_PATTERN

#: A name that ``copy_name`` has made, or that has passed ``checked``.
CopyName = NewType("CopyName", str)

#: Longest name, characters: what a Rucio name may have, with two characters between parts.
MOST_NAME = 250
#: Longest owner, job and output in it, characters.
_MOST_OWNER, _MOST_JOB, _MOST_OUTPUT = 64, 64, 96
#: Hexadecimal digits that stand for a part which cannot be taken as it is.
_DIGITS = 24

_PART = r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
_PLAIN = re.compile(_PART)
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
#: A part that looks like a digest's is one: so no plain part is another's stand-in.
_DIGESTED = re.compile(rf"[0-9a-f]{{{_DIGITS}}}(?:\..*)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")
_JOB_REF = re.compile(JOB_REF_PATTERN)


def copy_name(job_ref: str, attempt: int, output_name: str) -> CopyName:
    """Name the copy of an output: the same each time, and another for any other job, attempt or output.

    A name that is safe and short stays as it is, ``owner/job.1/2/histogram.root``. Any other is the beginning of its
    digest and, to be recognised by, the end of what it was. Raises ValueError for what is no job or no attempt.
    """
    if not _JOB_REF.search(job_ref) or attempt < 0:
        raise ValueError(f"job = {job_ref!r}, attempt = {attempt}: no attempt of a job")
    owner, _, job = job_ref.partition("/")
    parts = (_part(owner, _MOST_OWNER), _part(job, _MOST_JOB), str(attempt), _part(output_name, _MOST_OUTPUT))
    return checked("/".join(parts))


def collection_name(job_ref: str) -> CopyName:
    """Name what the outputs of a submission are gathered under: two parts, so that no copy is called so."""
    if not _JOB_REF.search(job_ref):
        raise ValueError(f"job = {job_ref!r}: not the name of a job")
    owner, _, job = job_ref.partition("/")
    return checked(f"{_part(owner, _MOST_OWNER)}/{_part(job.rpartition('.')[0], _MOST_JOB)}")


def checked(name: str) -> CopyName:
    """Give a name that is safe. Raises ValueError for any other."""
    if len(name) > MOST_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"name = {name[:MOST_NAME]!r}: a copy may not be called so")
    return CopyName(name)


def _part(text: str, most: int) -> str:
    if len(text) <= most and _PLAIN.fullmatch(text) and not _DIGESTED.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    readable = ".".join(filter(None, (_UNSAFE.sub("_", word).strip("_") for word in text.split("."))))
    end = readable[-(most - _DIGITS - 1) :].strip(".")
    return f"{digest}.{end}" if end else digest
