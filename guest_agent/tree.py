"""All that is below a held directory, whatever a stranger put there: what matches, what it takes, what is to stay."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from guest_agent.directory import Directory, parts_of
from guest_agent.errors import TooMany
from guest_agent.path_walk import PathWalk
from guest_agent.quota import DiskAmount


def matching(root: Directory, pattern: str, most: int) -> list[str]:
    """Name the files that a pattern of the shell names: ``*``, ``?`` and ``[…]``, each within one part.

    Raises TooMany beyond ``most`` of them, or of directories on the way: a job may have made millions.
    """
    *way, last = parts_of(pattern)
    places = [""]
    for part in way:
        found = (_joined(at, each.name) for at in places for each in _fitting(root, at, part) if _is_directory(each))
        places = _at_most(found, most)
    return sorted(_at_most((_joined(at, each.name) for at in places for each in _fitting(root, at, last)), most))


def keep_only(root: Directory, names: Iterable[str]) -> None:
    """Remove all that leads to none of these names; links on a way stay. Raises as ``open`` and ``empty`` do."""
    kept: dict[str, Any] = {}
    for way in itertools.chain.from_iterable(_ways_to(root, name) for name in names):
        inside = kept
        for part in way.split("/"):
            inside = inside.setdefault(part, {})
    pending = [("", kept)]
    while pending:
        prefix, inside = pending.pop()
        with root.at(prefix) as here:
            here.empty(frozenset(inside))
        pending += [(_joined(prefix, part), more) for part, more in inside.items() if more]


def used(root: Directory) -> DiskAmount:
    """Give what is in it takes of the disk, as far as it can be seen. For where nothing else counts."""
    size, files, pending = 0, 0, [""]
    while pending:
        prefix = pending.pop()
        with contextlib.suppress(OSError), root.at(prefix) as here, os.scandir(here.descriptor) as entries:
            for entry in entries:
                files += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if _is_directory(entry):
                    pending.append(_joined(prefix, entry.name))
    return DiskAmount(size, files)


def _ways_to(root: Directory, name: str) -> list[str]:
    """Give the places in it that lead to what ``name`` means: each link on the way, and what it is at last."""
    with root.naming(name), PathWalk(root.path, root.descriptor) as walk:
        os.close(walk.open(name))
        return walk.passed


def _fitting(root: Directory, prefix: str, part: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), root.at(prefix) as here, os.scandir(here.descriptor) as entries:
        for entry in entries:
            if fnmatchcase(entry.name, part) and (entry.name[0] != "." or part[0] == "."):
                yield entry


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _at_most(found: Iterable[str], most: int) -> list[str]:
    taken = list(itertools.islice(found, most + 1))
    if len(taken) > most:
        raise TooMany(most)
    return taken
