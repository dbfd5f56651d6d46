"""What transfers that ended or were killed have left on the disk, and its end: by age, and by count.

Only what nobody holds is removed (see ``locks``), so any process may look after a directory that several share.
Blocking.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from broker.errors import PartialTaken
from broker.transfer.landing import MARK, PART
from broker.transfer.locks import lock
from broker.transfer.removal import remove_tree
from schemas.files import FileOffer


def name_of_transfer(sender: str, offer: FileOffer) -> str:
    """Give 40 digits that are a transfer's alone: offered again it goes on, and no other one meets it."""
    return hashlib.sha256(f"{sender} {offer.id} {offer.sha256} {offer.size}".encode()).hexdigest()[:40]


def name_of_partial(sender: str, offer: FileOffer) -> str:
    """Name the file of a transfer on its way in."""
    return name_of_transfer(sender, offer) + PART


def remove_left_behind(
    paths: Iterable[Path], *, now_s: float, keep_s: float, most: int, most_bytes: int | None = None
) -> list[Path]:
    """Remove files that nobody holds and that were last written over ``keep_s`` ago, or are not among the ``most``
    newest or the newest ``most_bytes``; their marks go too. Give what was removed. Raises OSError for a directory that
    cannot be changed."""
    aged = sorted(((*_age_and_size(path), path) for path in paths if not _goes_with_its_file(path)), reverse=True)
    sums = accumulate(size for _, size, _ in aged)
    kept = {
        path
        for (modified_s, _, path), so_far in zip(aged[:most], sums, strict=False)
        if now_s - modified_s <= keep_s and (most_bytes is None or so_far <= most_bytes)
    }
    return [path for *_, path in aged if path not in kept and remove_unheld(path)]


def _goes_with_its_file(path: Path) -> bool:
    return path.suffix == MARK and path.with_suffix(PART).exists()


def _age_and_size(path: Path) -> tuple[float, int]:
    """Give when a file, or the newest in a directory, was written, and what it takes of the disk; of one that has just
    gone it is nothing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0.0, 0
    if not stat.S_ISDIR(found.st_mode):
        return found.st_mtime, found.st_blocks * 512
    inside = [(found.st_ctime, found.st_blocks)]
    for _, directories, files, descriptor in os.fwalk(path):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                one = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                inside.append((one.st_ctime, one.st_blocks))
    return max(time for time, _ in inside), sum(blocks for _, blocks in inside) * 512


def remove_unheld(path: Path) -> bool:
    """Remove a file, and its mark, or a tree that gathered, unless somebody holds it; with the lock ours, nobody takes
    it up meanwhile.

    False: it is held, or not there.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(PartialTaken):
            lock(file)
            if stat.S_ISDIR(os.fstat(file).st_mode):
                remove_tree(path)
                return True
            path.unlink(missing_ok=True)
            path.with_suffix(MARK).unlink(missing_ok=True)
            return True
    finally:
        os.close(file)
    return False
