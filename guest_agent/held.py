"""A directory held by its descriptor, and what a stranger may have put into it.

All that the agent does in a payload's directory goes through here. Each step of a path is opened by name in the held
directory before it, links never followed by the kernel, so nothing that somebody renames or links meanwhile leads out.
Removal needs neither recursion nor a descriptor a level, and takes any depth.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any

from guest_agent.errors import PathEscapes, TooMany
from guest_agent.quota import Amount

#: Links that one path may go through.
MOST_LINKS = 40
#: Names of a directory that are read before they are removed: a payload may have made millions.
PORTION = 10_000
#: How a directory is opened: never through a link.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How a file is made: it was not there, not even as a link.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: How a file is opened that may be anything: a FIFO must not hold us up, a terminal not become ours.
_ANYTHING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class Held:
    """See the module. Close it, or use it as a context manager. Errors are OSError with the path in it."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """Hold the directory ``path``: whoever else may write above it is trusted by the caller."""
        self.path = path
        self.descriptor = os.open(path, _DIRECTORY) if descriptor is None else descriptor

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def under(self, name: str) -> Held:
        """Hold a directory in it; a link is none."""
        with self._naming(name):
            return Held(self.path / name, os.open(name, _DIRECTORY, dir_fd=self.descriptor))

    def make(self, name: str, *, owner: tuple[int, int] | None = None, mode: int = 0o700, anew: bool = False) -> Held:
        """Hold a directory in it that is made if need be, and is ``owner``'s then; ``anew``: what was there goes."""
        with self._naming(name):
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

    def make_way(self, name: str, *, owner: tuple[int, int] | None = None) -> tuple[Held, str]:
        """Make the directories of a path below it, ``owner``'s; give the last one and the last part of the name."""
        *parts, last = _parts(name)
        here = Held(self.path, os.dup(self.descriptor))
        for part in parts:
            with here:
                here = here.make(part, owner=owner)
        return here, last

    def create(self, name: str, *, owner: tuple[int, int] | None = None, mode: int = 0o600) -> int:
        """Make a new file below it and give its descriptor, for writing."""
        here, last = self.make_way(name, owner=owner)
        with here, self._naming(name):
            descriptor = os.open(last, _NEW, 0o600, dir_fd=here.descriptor)
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            return descriptor

    def link(self, source: Path, name: str, *, owner: tuple[int, int] | None = None) -> None:
        """Give a file of ours another name below it; directories on the way are ``owner``'s."""
        here, last = self.make_way(name, owner=owner)
        with here, self._naming(name):
            os.link(source, last, dst_dir_fd=here.descriptor, follow_symlinks=False)

    def open(self, name: str) -> int:
        """Open what ``name`` leads to, whatever it is, for reading. Links are followed as long as they stay inside.

        A link may name a place in this directory by the directory's own absolute path. Raises PathEscapes, OSError.
        """
        walk = _Walk(self)
        try:
            with self._naming(name):
                return walk.open(name)
        finally:
            walk.close()

    def matching(self, pattern: str, most: int) -> list[str]:
        """Name the files that a pattern of the shell names: ``*``, ``?`` and ``[…]``, each within one part.

        Raises TooMany beyond ``most`` of them, or of directories on the way: a job may have made millions.
        """
        *way, last = _parts(pattern)
        places = [""]
        for part in way:
            found = (_joined(at, each.name) for at in places for each in self._fitting(at, part) if _is_directory(each))
            places = _at_most(found, most)
        return sorted(_at_most((_joined(at, each.name) for at in places for each in self._fitting(at, last)), most))

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove all that leads to none of these names; links on a way stay. Raises as ``open`` and ``empty`` do."""
        kept: dict[str, Any] = {}
        for way in itertools.chain.from_iterable(map(self._ways_to, names)):
            inside = kept
            for part in way.split("/"):
                inside = inside.setdefault(part, {})
        pending = [("", kept)]
        while pending:
            prefix, inside = pending.pop()
            with self._place(prefix) as here:
                here.empty(frozenset(inside))
            pending += [(_joined(prefix, part), more) for part, more in inside.items() if more]

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

    def used(self) -> Amount:
        """Give what is in it takes of the disk, as far as it can be seen. For where nothing else counts."""
        size, files, pending = 0, 0, [""]
        while pending:
            prefix = pending.pop()
            with contextlib.suppress(OSError), self._place(prefix) as here, os.scandir(here.descriptor) as entries:
                for entry in entries:
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if _is_directory(entry):
                        pending.append(_joined(prefix, entry.name))
        return Amount(size, files)

    def _ways_to(self, name: str) -> list[str]:
        """Give the places in it that lead to what ``name`` means: each link on the way, and what it is at last."""
        walk = _Walk(self)
        try:
            with self._naming(name):
                os.close(walk.open(name))
            return walk.passed
        finally:
            walk.close()

    def _fitting(self, prefix: str, part: str) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(OSError), self._place(prefix) as here, os.scandir(here.descriptor) as entries:
            for entry in entries:
                if fnmatchcase(entry.name, part) and (entry.name[0] != "." or part[0] == "."):
                    yield entry

    def _place(self, prefix: str) -> Held:
        here = Held(self.path, os.dup(self.descriptor))
        for part in prefix.split("/") if prefix else []:
            with here:
                here = here.under(part)
        return here

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
    def _naming(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = str(self.path / name), None
            raise


class _Walk:
    """One path being followed: the held directories from the root of the walk to where it is."""

    def __init__(self, root: Held) -> None:
        self._root = root
        self._way: list[int] = []
        self._parts: list[str] = []
        #: Where it has been, as paths below the root: each link, each directory that was left by "..", and the last
        #: thing that was opened.
        self.passed: list[str] = []
        self._links = 0

    def close(self) -> None:
        self._parts.clear()
        while self._way:
            os.close(self._way.pop())

    def open(self, name: str) -> int:
        left = [part for part in reversed(name.split("/")) if part]
        while left:
            part = left.pop()
            if part == ".":
                continue
            if part == "..":
                self._back(name)
                continue
            target = self._link_at(part)
            if target is not None:
                self._note(part)
                left += reversed(self._inside(target, name))
            elif left:
                self._way.append(os.open(part, _DIRECTORY, dir_fd=self._here))
                self._parts.append(part)
            else:
                self._note(part)
                return os.open(part, _ANYTHING, dir_fd=self._here)
        return os.dup(self._here)

    @property
    def _here(self) -> int:
        return self._way[-1] if self._way else self._root.descriptor

    def _back(self, name: str) -> None:
        if not self._way:
            raise PathEscapes(name)
        os.close(self._way.pop())
        self.passed.append("/".join(self._parts))
        self._parts.pop()

    def _note(self, part: str) -> None:
        self.passed.append("/".join([*self._parts, part]))

    def _link_at(self, part: str) -> str | None:
        try:
            return os.readlink(part, dir_fd=self._here)
        except OSError:  # no link; opening it says what else is the matter
            return None

    def _inside(self, target: str, name: str) -> list[str]:
        """Give the parts of a link's target, seen from where the walk is now."""
        self._links += 1
        if self._links > MOST_LINKS:
            raise PathEscapes(name)
        if target.startswith("/"):
            own = f"{self._root.path}/"
            if not target.startswith(own):
                raise PathEscapes(name)
            self.close()
            target = target[len(own) :]
        return [part for part in target.split("/") if part]


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _at_most(found: Iterable[str], most: int) -> list[str]:
    taken = list(itertools.islice(found, most + 1))
    if len(taken) > most:
        raise TooMany(most)
    return taken


def _parts(name: str) -> list[str]:
    """Take a name in a job apart. Raises PathEscapes for one that is not below where it begins."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise PathEscapes(name)
    return parts
