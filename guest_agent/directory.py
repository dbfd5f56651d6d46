"""A directory held by its descriptor, and what a stranger may have put into it.

All that the agent does in a payload's directory goes through here. Each step of a path is opened by name in the held
directory before it, links never followed by the kernel, so nothing that somebody renames or links meanwhile leads out.
Removal needs neither recursion nor a descriptor a level, and takes any depth.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from guest_agent.errors import PathEscapes
from guest_agent.path_walk import AS_DIRECTORY, PathWalk

#: Names of a directory that are read before they are removed: a payload may have made millions.
PORTION = 10_000
#: How a file is made: it was not there, not even as a link.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Directory:
    """See the module. Close it, or use it as a context manager. Errors are OSError with the path in it."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """Hold the directory ``path``: whoever else may write above it is trusted by the caller."""
        self.path = path
        self.descriptor = os.open(path, AS_DIRECTORY) if descriptor is None else descriptor

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def under(self, name: str) -> Directory:
        """Hold a directory in it; a link is none."""
        with self.naming(name):
            return Directory(self.path / name, os.open(name, AS_DIRECTORY, dir_fd=self.descriptor))

    def at(self, path: str) -> Directory:
        """Hold the directory at a path below it, links never followed; itself where that is empty."""
        here = Directory(self.path, os.dup(self.descriptor))
        for part in path.split("/") if path else []:
            with here:
                here = here.under(part)
        return here

    def make(
        self, name: str, *, owner: tuple[int, int] | None = None, mode: int = 0o700, anew: bool = False
    ) -> Directory:
        """Hold a directory in it that is made if need be, and is ``owner``'s then; ``anew``: what was there goes."""
        with self.naming(name):
            try:
                os.mkdir(name, mode, dir_fd=self.descriptor)
            except FileExistsError:
                if not anew:
                    return self.under(name)
                self.remove(name)
                os.mkdir(name, mode, dir_fd=self.descriptor)
            made = self.under(name)
            os.fchmod(made.descriptor, mode)
            if owner is not None:
                os.fchown(made.descriptor, *owner)
            return made

    def make_way(self, name: str, *, owner: tuple[int, int] | None = None) -> tuple[Directory, str]:
        """Make the directories of a path below it, ``owner``'s; give the last one and the last part of the name."""
        *parts, last = parts_of(name)
        here = Directory(self.path, os.dup(self.descriptor))
        for part in parts:
            with here:
                here = here.make(part, owner=owner)
        return here, last

    def create(self, name: str, *, owner: tuple[int, int] | None = None, mode: int = 0o600) -> int:
        """Make a new file below it and give its descriptor, for writing."""
        here, last = self.make_way(name, owner=owner)
        with here, self.naming(name):
            descriptor = os.open(last, _NEW, 0o600, dir_fd=here.descriptor)
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            return descriptor

    def link(self, source: Path, name: str, *, owner: tuple[int, int] | None = None) -> None:
        """Give a file of ours another name below it; directories on the way are ``owner``'s."""
        here, last = self.make_way(name, owner=owner)
        with here, self.naming(name):
            os.link(source, last, dst_dir_fd=here.descriptor, follow_symlinks=False)

    def open(self, name: str) -> int:
        """Open what ``name`` leads to, whatever it is, for reading. Links are followed as long as they stay inside.

        A link may name a place in this directory by the directory's own absolute path. Raises PathEscapes, OSError.
        """
        with self.naming(name), PathWalk(self.path, self.descriptor) as walk:
            return walk.open(name)

    def empty(self, spare: frozenset[str] = frozenset()) -> None:
        """Remove all that is in it, but for ``spare``.

        Raises OSError with what could not be removed; all else has gone then.
        """
        failure: OSError | None = None
        pending = self._unlink_all(spare)
        while pending:
            name = pending.pop()
            try:
                pending += self._dissolve(name)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def remove(self, name: str) -> None:
        """Remove what has this name in it, a whole tree if it is one; nothing happens where there is none."""
        with contextlib.suppress(OSError):  # an empty directory, as most are, takes nothing else
            os.rmdir(name, dir_fd=self.descriptor)
            return
        try:
            inside = self.under(name)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            os.unlink(name, dir_fd=self.descriptor)
            return
        except PermissionError:
            self._open_up(name)
            inside = self.under(name)
        with inside:
            self._open_up(name)
            inside.empty()
        os.rmdir(name, dir_fd=self.descriptor)

    def _unlink_all(self, spare: frozenset[str] = frozenset()) -> list[str]:
        """Remove all that is no directory, and name the directories. Names are read a portion at a time."""
        directories: set[str] = set()
        while True:
            with os.scandir(self.descriptor) as entries:
                fresh = (entry for entry in entries if entry.name not in directories and entry.name not in spare)
                portion = list(itertools.islice(fresh, PORTION))
            if not portion:
                return list(directories)
            for entry in portion:
                if entry.is_dir(follow_symlinks=False):
                    directories.add(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=self.descriptor)

    def _dissolve(self, name: str) -> list[str]:
        """Remove a directory in this one: its files go, its directories move up to here, and are named."""
        self._open_up(name)
        moved = []
        with self.under(name) as inside:
            for directory in inside._unlink_all():
                inside._open_up(directory)
                moved.append(f".gone-{os.urandom(12).hex()}")
                os.rename(directory, moved[-1], src_dir_fd=inside.descriptor, dst_dir_fd=self.descriptor)
        os.rmdir(name, dir_fd=self.descriptor)
        return moved

    def _open_up(self, name: str) -> None:
        """Give ourselves the right to look into a directory and change it: root has it anyway."""
        if os.geteuid() == 0:
            return
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            Path(f"/proc/self/fd/{descriptor}").chmod(0o700)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Have an OSError name the path of what is in it."""
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = str(self.path / name), None
            raise


def parts_of(name: str) -> list[str]:
    """Take a name in a job apart. Raises PathEscapes for one that is not below where it begins."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise PathEscapes(name)
    return parts
