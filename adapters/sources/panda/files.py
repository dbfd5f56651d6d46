"""Files of a job: from PanDA's parallel lists to names with what is known of each, and to where each is. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from adapters.errors import PandaJobError
from adapters.sources.names import flaw_of_name, quoted
from adapters.sources.panda.record import PandaRecord, wire_name
from schemas.description import MAX_INPUTS, MAX_OUTPUTS, STREAMS

#: Names of files of a description may take this much, bytes: a completion has one message.
MOST_NAME_BYTES = 512 << 10
#: Any endpoint, in the settings.
ANY_ENDPOINT = "*"

_SCOPE = re.compile(r"(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_CHECKSUM = re.compile(r"(?:(ad|adler32):)?([0-9a-fA-F]{8})|(?:(md5):)?([0-9a-fA-F]{32})")


class PandaFile(NamedTuple):
    """An input as PanDA knows it; ``checksum`` is ``ad:`` or ``md5:`` and digits, or empty."""

    name: str
    guid: str
    scope: str
    checksum: str
    size: int
    endpoint: str


class InputPlace(NamedTuple):
    """Where a file is to be had, and what it must be; ``size`` -1 = not known."""

    url: str
    checksum: str
    size: int


def read_inputs(record: PandaRecord) -> list[PandaFile]:
    """Give a job's inputs. Raises PandaJobError for what is none: too many, a name, lists of different lengths."""
    names = record.items("in_files")
    if len(names) > MAX_INPUTS:
        raise PandaJobError("inFiles", f"{len(names)} files: at most {MAX_INPUTS} are taken: put them into archives")
    if twice := next((name for name, count in Counter(names).items() if count > 1), ""):
        raise PandaJobError("inFiles", f"{quoted(twice)}: is there twice: which of them is meant?")
    for name in names:
        _demand_name("inFiles", name)
    scopes, checksums, sizes, endpoints = (
        _beside(record, key, len(names)) for key in ("scopes_in", "checksums", "sizes", "endpoints_in")
    )
    guids = record.items("guids")
    if len(guids) != len(names):  # the server leaves out those at the front that it does not know
        guids = [""] * len(names)
    rows = zip(names, guids, scopes, checksums, sizes, endpoints, strict=True)
    return [
        PandaFile(name, guid, _scope(scope), _checksum(checksum), _size(size), endpoint)
        for name, guid, scope, checksum, size, endpoint in rows
    ]


def read_outputs(record: PandaRecord) -> list[str]:
    """Name a job's outputs, without its log. Raises PandaJobError."""
    log = record.text("log_file")
    names = [name for name in dict.fromkeys(record.items("out_files")) if name != log]
    if len(names) > MAX_OUTPUTS or sum(len(name.encode("utf-8", "replace")) for name in names) > MOST_NAME_BYTES:
        raise PandaJobError("outFiles", f"{len(names)} files, or too long names: make an archive of them")
    for name in names:
        _demand_name("outFiles", name)
        if name in STREAMS:
            raise PandaJobError("outFiles", f"{quoted(name)}: is a name that is taken for what a job prints")
    return names


def where_of(file: PandaFile, storage: Mapping[str, str]) -> str:
    """Say where a file is: an address in Rucio's order, its checksum and size behind a ``#``. Raises PandaJobError."""
    prefix = storage.get(file.endpoint) or storage.get(ANY_ENDPOINT)
    if prefix is None:
        known = ", ".join(sorted(storage)) or "nothing"
        words = (
            f"{quoted(file.endpoint)}: no place of {quoted(file.name)}: source.storage has {known}: name this one too"
        )
        raise PandaJobError("ddmEndPointIn", words)
    digest = hashlib.md5(f"{file.scope}:{file.name}".encode(), usedforsecurity=False).hexdigest()
    is_someones = file.scope.startswith(("user", "group"))
    scope = file.scope.replace(".", "/") if is_someones else file.scope
    facts = f"checksum={file.checksum}&size={file.size}"
    return f"{prefix.rstrip('/')}/{scope}/{digest[:2]}/{digest[2:4]}/{quote(file.name)}#{facts}"


def place_of(where: str) -> InputPlace:
    """Read what ``where_of`` has written, or the address of a program."""
    parts = urlsplit(where)
    facts = dict(parse_qsl(parts.fragment))
    size = facts.get("size", "")
    return InputPlace(
        parts._replace(fragment="").geturl(), facts.get("checksum", ""), int(size) if size.isdigit() else -1
    )


def _beside(record: PandaRecord, key: str, count: int) -> list[str]:
    """Give a list that goes with the names; one that says nothing of any file is as long as they are."""
    items = record.items(key) or [""] * count
    if len(items) != count:
        raise PandaJobError(wire_name(key), f"{len(items)} members, and inFiles has {count}: they must go together")
    return items


def _demand_name(key: str, name: str) -> None:
    if flaw := flaw_of_name(name):
        raise PandaJobError(key, f"{quoted(name)}: {flaw}")


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise PandaJobError("scopeIn", f"{quoted(text)}: must be a scope of Rucio, as in user.alice")
    return text


def _checksum(text: str) -> str:
    if not text:
        return ""
    found = _CHECKSUM.fullmatch(text)
    if found is None:
        raise PandaJobError("checksum", f"{quoted(text)}: must be ad: and 8 hexadecimal digits, or md5: and 32")
    return f"ad:{found[2].lower()}" if found[2] else f"md5:{found[4].lower()}"


def _size(text: str) -> int:
    if not text:
        return -1
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise PandaJobError("fsize", f"{quoted(text)}: must be a number of bytes")
    return int(text) or -1
