"""Threads: each is a daemon and is joined for a bounded time, so that no program hangs at its end because of one."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
import time

import pytest

from broker.errors import Disconnected
from tests.source import MODULES, lines_where, modules_in
from volcloud.errors import ClientNotOpen
from volcloud.loop_thread import LoopThread

EVERYWHERE = [*MODULES, *modules_in("tests", "benchmarks")]


def may_hang(call: ast.AST) -> bool:
    """Say whether this makes a thread that outlives its program, or waits for one for ever."""
    if not isinstance(call, ast.Call):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "Thread":
        return not any(word.arg == "daemon" and getattr(word.value, "value", 0) is True for word in call.keywords)
    return name == "join" and isinstance(call.func, ast.Attribute) and not call.args and not call.keywords


def test_a_thread_is_a_daemon_and_is_joined_for_a_time() -> None:
    assert lines_where(EVERYWHERE, may_hang) == []


async def nothing() -> None:
    """Say no last word."""


class Waiting:
    """A thread that waits for work of a loop, and what it heard."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self.begun = threading.Event()
        self.heard: list[BaseException] = []
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        assert self.begun.wait(10)

    def _wait(self) -> None:
        async def work() -> None:
            self.begun.set()
            await asyncio.Event().wait()

        try:
            self._loop.wait_for(work())
        except Disconnected as error:
            self.heard.append(error)

    def has_ended(self) -> bool:
        self._thread.join(10)
        return not self._thread.is_alive()


def test_who_waits_for_a_loop_that_is_closed_hears_it() -> None:
    loop = LoopThread("test")
    waiting = Waiting(loop)

    loop.close(nothing)
    loop.close(nothing)

    assert waiting.has_ended()
    assert str(waiting.heard[0]) == "the client was closed"


def test_who_comes_after_the_end_hears_it_too() -> None:
    loop = LoopThread("test")
    loop.close(nothing)

    with pytest.raises(ClientNotOpen, match="the client is closed"):
        loop.wait_for(nothing())


def test_work_that_does_not_heed_its_cancel_holds_up_the_end_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volcloud.loop_thread.END_S", 0.1)
    loop, stubborn = LoopThread("test"), threading.Event()

    async def work() -> None:
        for _ in range(3):
            try:
                stubborn.set()
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    future = loop.start(work())
    assert stubborn.wait(10)
    began = time.monotonic()
    loop.close(nothing)

    assert time.monotonic() - began < 10
    with pytest.raises(Disconnected):
        loop.result(future)


HANGS = """
import sys, threading
from volcloud.main import leave

threading.Thread(target=threading.Event().wait, daemon=False).start()
print("said", flush=True)
leave(3)
"""


def test_a_command_ends_with_its_status_though_a_thread_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
