"""A path of a stranger followed step by step from a directory that is held, links only as long as they stay inside.

Each step is opened by name in the directory before it, and the kernel follows no link: what somebody renames or links
meanwhile leads nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from guest_agent.errors import PathEscapes

#: Links that one path may go through.
MOST_LINKS = 40
#: How a directory is opened: never through a link.
AS_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How a file is opened that may be anything: a FIFO must not hold us up, a terminal not become ours.
_ANYTHING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class PathWalk:
    """One path being followed: the directories that are open from the root of the walk to where it is.

    A context manager. Errors are PathEscapes, and OSError.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Begin in the directory ``path`` that is open as ``descriptor``, which stays the caller's."""
        self._path, self._root = path, descriptor
        self._way: list[int] = []
        self._parts: list[str] = []
        #: Where it has been, as paths below the root: each link, each directory that was left by "..", and the last
        #: thing that was opened.
        self.passed: list[str] = []
        self._links = 0

    def __enter__(self) -> PathWalk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._to_root()

    def open(self, name: str) -> int:
        """Open what ``name`` leads to, whatever it is, for reading."""
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
                self._way.append(os.open(part, AS_DIRECTORY, dir_fd=self._here))
                self._parts.append(part)
            else:
                self._note(part)
                return os.open(part, _ANYTHING, dir_fd=self._here)
        return os.dup(self._here)

    def _to_root(self) -> None:
        self._parts.clear()
        while self._way:
            os.close(self._way.pop())

    @property
    def _here(self) -> int:
        return self._way[-1] if self._way else self._root

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
            own = f"{self._path}/"
            if not target.startswith(own):
                raise PathEscapes(name)
            self._to_root()
            target = target[len(own) :]
        return [part for part in target.split("/") if part]
