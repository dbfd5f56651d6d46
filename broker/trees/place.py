"""Where a tree is to be, and the directory beside it in which it gathers: one receiver at a time holds that. Blocking.

A tree that is new appears under its name as a whole, by one rename; where a directory is there, its files come into it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from broker import durable
from broker.errors import PartialTaken, TransferFailed
from broker.transfer.locks import lock
from broker.transfer.removal import remove_tree
from broker.trees.held import AS_DIRECTORY, look_at
from schemas.errors import ErrorCode

#: What a new tree is called while it gathers.
_NEW = b"tree"
#: What a large file, and its mark, are called while it comes.
_LARGE = re.compile(rb"[0-9a-f]{64}(\.mark)?")


class TreePlace(Struct, frozen=True, kw_only=True):
    """The directory ``name`` in the one that ``parent`` opens; "." is that one itself. It gathers in ``gathering``, on
    the same disk. ``kept``: see ``reserve.DiskRoom``."""

    parent: Callable[[], int]
    #: Makes what is missing above it, and opens the parent.
    make_parent: Callable[[], int]
    name: bytes
    #: For a person.
    told: str
    gathering: Path
    kept: int | None = None


class HeldPlace:
    """A place that is held: what is there, and what gathers. Close it."""

    def __init__(self, place: TreePlace) -> None:
        """Raises PartialTaken while another receiver holds it, TransferFailed for a file there, and OSError."""
        self._place = place
        self._is_new = False
        place.gathering.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.gathering = os.open(place.gathering, AS_DIRECTORY)
        try:
            lock(self.gathering)
            if not os.path.samestat(place.gathering.stat(), os.fstat(self.gathering)):
                raise PartialTaken(ErrorCode.CONFLICT, f"another receiver is at work on {place.told}")
            self._check_target()
        except BaseException:
            with contextlib.suppress(OSError):  # where something has gathered, or somebody holds it, it stays
                place.gathering.rmdir()
            self.close()
            raise

    @property
    def is_new(self) -> bool:
        """Say whether there is no such directory yet."""
        return self._is_new

    @property
    def is_named(self) -> bool:
        """Say whether it is a directory of the sender's, and not the one that everything is in."""
        return self._place.name != b"."

    def open_root(self) -> int:
        """Open what files come into: the directory itself, or what is to be it."""
        if not self._is_new:
            return self._open_target()
        with contextlib.suppress(FileExistsError):
            os.mkdir(_NEW, 0o700, dir_fd=self.gathering)
        return os.open(_NEW, AS_DIRECTORY, dir_fd=self.gathering)

    def sync(self) -> None:
        """Have on the disk all that was written and renamed."""
        durable.sync_file_system(self.gathering)

    def settle(self) -> None:
        """Give a new tree its name, durably. Raises TransferFailed where something has come to be there."""
        if self._is_new:
            parent = self._place.make_parent()
            try:
                if look_at(self._place.name, parent) is not None:
                    text = (
                        f"{self._place.told} has come to be there meanwhile; nothing of it was changed; send it again"
                    )
                    raise TransferFailed(ErrorCode.CONFLICT, text)
                os.rename(_NEW, self._place.name, src_dir_fd=self.gathering, dst_dir_fd=parent)
                os.fsync(parent)
            finally:
                os.close(parent)
            self._is_new = False

    def tidy(self, keep: bytes) -> None:
        """Remove what an earlier receiver has left and nobody goes on with: all but the tree itself, large files, and
        what begins with ``keep``."""
        with os.scandir(self.gathering) as found:
            names = [os.fsencode(each.name) for each in found]
        for left in names:
            if left != _NEW and not _LARGE.fullmatch(left) and not left.startswith(keep):
                os.unlink(left, dir_fd=self.gathering)

    def remove(self) -> None:
        """Remove what has gathered."""
        remove_tree(self._place.gathering)

    def close(self) -> None:
        """Let go; what has gathered stays. Idempotent."""
        if self.gathering >= 0:
            os.close(self.gathering)
            self.gathering = -1

    def _check_target(self) -> None:
        """Find out whether there is one. Raises TransferFailed where it is no directory."""
        try:
            os.close(self._open_target())
        except FileNotFoundError:
            self._is_new = True
        except NotADirectoryError as error:
            text = f"{self._place.told} is no directory; name one, or a name that is free"
            raise TransferFailed(ErrorCode.CONFLICT, text) from error

    def _open_target(self) -> int:
        parent = self._place.parent()
        try:
            return os.open(self._place.name, AS_DIRECTORY, dir_fd=parent)
        finally:
            os.close(parent)


def make_usable(directory: int) -> None:
    """Give ourselves the right to look into a directory and change it: root has it anyway."""
    if os.geteuid() == 0:
        return
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(directory, mode | 0o700)
