"""What an earlier tree for the same place has left where a new one gathers, and is not of this one, goes. Blocking."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict

from broker.trees.held import HeldTree
from broker.trees.manifest import Manifest
from schemas.trees import TreeDirectory, TreeEntry, TreeSkipped


def prune(manifest: Manifest, held: HeldTree) -> bool:
    """Remove all that is below the root of a tree that gathers and that the manifest does not name, or as another kind.
    False: there is nothing. Raises OSError."""
    with os.scandir(held.root) as found:
        if not any(found):
            return False
    inside: dict[int, dict[bytes, tuple[int, TreeEntry]]] = defaultdict(dict)
    for index, entry in enumerate(manifest.entries):
        if not isinstance(entry, TreeSkipped):
            inside[entry.parent][entry.name] = index, entry
    pending = [0]
    while pending:
        here = pending.pop()
        pending += _prune_one(held.directory(here), inside[here])
    return True


def _prune_one(directory: int, named: dict[bytes, tuple[int, TreeEntry]]) -> list[int]:
    """Remove from one directory; give the places of the directories that stay."""
    stay = []
    with os.scandir(directory) as found:
        there = [(os.fsencode(each.name), each.is_dir(follow_symlinks=False)) for each in found]
    for name, is_directory in there:
        index, entry = named.get(name, (-1, None))
        if is_directory and isinstance(entry, TreeDirectory):
            stay.append(index)
        elif is_directory:
            shutil.rmtree(os.fsdecode(name), dir_fd=directory)
        elif entry is None or isinstance(entry, TreeDirectory):
            os.unlink(name, dir_fd=directory)
    return stay
