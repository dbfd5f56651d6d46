"""Paths kept below a directory: no ``..``, no link that leads out."""

from __future__ import annotations

from pathlib import Path

from guest_agent.errors import BadPath


def below(root: Path, name: str) -> Path:
    """Give the path of ``name`` below ``root``. Raises BadPath when it would lie outside, links followed."""
    root = root.resolve()
    path = root if "\0" in name else (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise BadPath(f"path = {name!r}: must be a relative path below the file area, without '..' or links out of it")
    return path
