"""A job as a person writes it: a TOML or JSON file, or a mapping, its inputs named by path.

An input ``{name = …, path = …}`` stands for a file beside the job file; it becomes the digest and size under which the
file is uploaded. Everything is checked before anything is read in whole or sent.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from broker.transfer.sending import digest_file
from schemas.description import Input, JobDescription, read_description
from schemas.errors import DecodeError
from volcloud.errors import BadInput

#: Stands for a digest while the rest of a description is checked.
_UNKNOWN_DIGEST = "0" * 64
_INPUT_KEYS = ("name", "path", *(f.encode_name for f in msgspec.structs.fields(Input) if f.name != "name"))


class PreparedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A description ready to submit, and the local files that must be uploaded first, by digest."""

    description: JobDescription
    uploads: dict[str, Path] = {}


def prepare(
    job: JobDescription | Mapping[str, Any] | Path | str, *, job_id: str | None = None, array: int | None = None
) -> PreparedJob:
    """Read, check and complete a job; ``job_id`` and ``array`` replace what it says. Raises BadInput. Blocking."""
    if isinstance(job, JobDescription):
        changes: dict[str, Any] = {k: v for k, v in (("id", job_id), ("array", array)) if v is not None}
        return PreparedJob(description=msgspec.structs.replace(job, **changes))
    if isinstance(job, Mapping):
        return _prepare_fields(dict(job), Path.cwd(), "job", job_id, array)
    path = Path(job)
    return _prepare_fields(_read_fields(path), path.absolute().parent, str(path), job_id, array)


def _prepare_fields(
    fields: dict[str, Any], base: Path, where: str, job_id: str | None, array: int | None
) -> PreparedJob:
    fields |= {k: v for k, v in (("id", job_id), ("array", array)) if v is not None}
    if "id" not in fields:
        raise BadInput(
            f"{where}: id is missing: a submission is safe to repeat because it has one",
            'add a line such as id = "hello-1", or give --id',
        )
    try:
        paths = _take_paths(fields, base)
        description = read_description(fields)
    except DecodeError as error:
        raise BadInput(f"{where}: {error}", "mend the file and submit it again") from error
    return _digested(description, paths)


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"{path.absolute()}: cannot be read: {error.strerror}", "name a job file") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not a text file: {error.reason}", "a job file is TOML or JSON in UTF-8") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadInput(f"{path}: not {kind}: {error}", "mend the file and submit it again") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{path}: must be a table of keys and values", "see `volcloud job submit --help`")
    return fields


def _take_paths(fields: dict[str, Any], base: Path) -> dict[str, Path]:
    """Replace each input's path by a placeholder digest, in ``fields``; give the paths by the input's name."""
    inputs = fields.get("inputs", [])
    if not isinstance(inputs, list):
        return {}
    paths: dict[str, Path] = {}
    fields["inputs"] = [_without_path(item, base, paths) if isinstance(item, dict) else item for item in inputs]
    return paths


def _without_path(item: dict[str, Any], base: Path, paths: dict[str, Path]) -> dict[str, Any]:
    for key in item:
        if key not in _INPUT_KEYS:
            near = get_close_matches(str(key), _INPUT_KEYS, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(_INPUT_KEYS)}"
            raise DecodeError(f"unknown key inputs.{key}: {advice}")
    item = dict(item)
    if isinstance(item.get("content"), str):
        item["content"] = item["content"].encode()
    if "path" not in item:
        return item
    path = _existing(item.pop("path"), base)
    name = item.setdefault("name", path.name)
    paths[str(name)] = path
    return item | {"sha256": _UNKNOWN_DIGEST}


def _existing(named: Any, base: Path) -> Path:
    if not isinstance(named, str):
        raise DecodeError(f"inputs.path = {named!r}: must be a text, the path of a file")
    path = base / Path(named).expanduser()
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise DecodeError(f"inputs.path = {named!r}: the file {path} {what}")
    return path


def _digested(description: JobDescription, paths: dict[str, Path]) -> PreparedJob:
    uploads: dict[str, Path] = {}
    inputs = []
    for item in description.inputs:
        if item.name in paths:
            size, sha256 = _digest(paths[item.name])
            uploads[sha256] = paths[item.name]
            item = msgspec.structs.replace(item, sha256=sha256, size=size)
        inputs.append(item)
    return PreparedJob(description=msgspec.structs.replace(description, inputs=inputs), uploads=uploads)


def _digest(path: Path) -> tuple[int, str]:
    try:
        return digest_file(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}", "make it readable and submit again") from error
