"""What transfers that ended or were killed have left on the disk, and its end: by age, and by count.

Only what nobody holds is removed (see ``partial``), so any process may look after a directory that several share.
Blocking.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from broker.errors import PartialTaken
from broker.transfer.partial import MARK, PART, lock
from schemas.files import FileOffer


def name_of_partial(sender: str, offer: FileOffer) -> str:
    """Name a file on its way by its transfer and nothing else: offered again it goes on, and no other one meets it."""
    return hashlib.sha256(f"{sender} {offer.id} {offer.sha256} {offer.size}".encode()).hexdigest()[:40] + PART


def remove_left_behind(paths: Iterable[Path], *, now_s: float, keep_s: float, most: int) -> list[Path]:
    """Remove files that nobody holds and that were last written over ``keep_s`` ago, or are not among the ``most``
    newest; their marks go too. Give what was removed. Raises OSError for a directory that cannot be changed."""
    aged = sorted(((_modified_s(path), path) for path in paths if not _goes_with_its_file(path)), reverse=True)
    kept = {path for modified_s, path in aged[:most] if now_s - modified_s <= keep_s}
    return [path for _, path in aged if path not in kept and _remove(path)]


def _goes_with_its_file(path: Path) -> bool:
    return path.suffix == MARK and path.with_suffix(PART).exists()


def _modified_s(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path) -> bool:
    """Remove a file unless somebody holds it; with the lock ours, nobody takes it up meanwhile."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(PartialTaken):
            lock(file)
            path.unlink(missing_ok=True)
            path.with_suffix(MARK).unlink(missing_ok=True)
            return True
    finally:
        os.close(file)
    return False
