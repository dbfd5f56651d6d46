"""What fetches of inputs that were killed have left in a VM goes by age and count, and what is at work stays."""

from __future__ import annotations

import os
from pathlib import Path

from broker.transfer.landing import FileLanding
from guest_agent.cache import MOST_PARTIALS, InputCache


async def fetch(sha256: str, target: Path, partial: Path) -> None:
    target.write_bytes(b"content")


async def test_partial_files_of_killed_fetches_go(tmp_path: Path) -> None:
    cache = InputCache(tmp_path, fetch)
    at_work = FileLanding(tmp_path / "at-work", tmp_path / ".at-work.part", 10)
    for number in range(MOST_PARTIALS + 4):
        (tmp_path / f".{number}.part").touch()
        (tmp_path / f".{number}.mark").touch()
    for name in (".0.part", ".at-work.part"):
        os.utime(tmp_path / name, (0, 0))

    async with cache.lend("ab", 7):
        pass

    left = {path.name for path in tmp_path.iterdir()}
    assert {"ab", ".at-work.part"} <= left
    assert ".0.part" not in left
    assert len([name for name in left if name.endswith(".part")]) == MOST_PARTIALS + 1
    at_work.close()
