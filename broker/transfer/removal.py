"""Removes what has gathered of a tree, whatever modes its directories have. Blocking."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, no link followed. Nothing happens where there is none. Raises OSError."""
    if os.geteuid() != 0:
        _open_up(path)
    shutil.rmtree(path, onerror=_forgive_the_missing)


def _forgive_the_missing(_: Callable[..., object], __: str, raised: tuple[type, BaseException, object]) -> None:
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _open_up(path: Path) -> None:
    """Let its owner look into each directory: a tree's modes are its sender's."""
    with contextlib.suppress(OSError):
        path.chmod(0o700)
    for here, directories, _, descriptor in os.fwalk(path):
        for name in directories:
            with contextlib.suppress(OSError):
                if not Path(here, name).is_symlink():
                    os.chmod(name, 0o700, dir_fd=descriptor)
