"""What a supervisor does beside: a chore that fails is told and begun again, and never ends the system."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.contract.conftest import eventually
from volcloud.centre import chores, log_bounds
from volcloud.centre.chores import keep_doing
from volcloud.centre.log_bounds import cut_long


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "WAITS_S", (0.001, 0.001))


async def test_a_chore_that_fails_is_told_once_and_begun_again() -> None:
    said: list[str] = []
    begun: list[int] = []

    async def chore() -> None:
        begun.append(1)
        if len(begun) < 5:
            raise OSError(5, "Input/output error", "/x")
        await asyncio.Event().wait()

    doing = asyncio.ensure_future(keep_doing("log bounds", chore, said.append))
    await eventually(lambda: len(begun) == 5)
    doing.cancel()
    await asyncio.wait([doing])

    assert said == ["log bounds: OSError: [Errno 5] Input/output error: '/x'; trying again"]
    assert doing.cancelled()


def vanishing(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have a log gone just before one thing is done to it."""
    real = getattr(os, name)

    def gone(*arguments: object) -> object:
        path.unlink(missing_ok=True)
        return real(*arguments)

    monkeypatch.setattr(log_bounds.os, name, gone)


def test_a_log_that_vanishes_while_it_is_cut_is_not_cut_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.log").write_bytes(b"x" * 1000)
    vanishing(tmp_path / "a.log", monkeypatch, "truncate")

    cut = cut_long([tmp_path], 100)

    assert cut == [tmp_path / "b.log"]
    assert (tmp_path / "b.log").stat().st_size == 0
    assert (tmp_path / "b.log.1").stat().st_size == 50


def test_a_log_that_cannot_be_looked_at_is_no_long_one(tmp_path: Path) -> None:
    (tmp_path / "loop.log").symlink_to(tmp_path / "loop.log")

    assert cut_long([tmp_path], 0) == []
