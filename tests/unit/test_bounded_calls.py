"""Calls that may hang: given up in time, few at once, and forgotten when they come back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters.bounded_calls import BoundedCalls


def fail() -> None:
    raise LookupError("the call's own")


def time_out() -> None:
    raise TimeoutError("the call's own")


def test_what_a_call_gives_or_raises_comes_through() -> None:
    calls = BoundedCalls()

    assert calls.run(lambda: 7, 10) == 7
    with pytest.raises(LookupError, match="the call's own"):
        calls.run(fail, 10)
    with pytest.raises(TimeoutError, match="the call's own"):
        calls.run(time_out, 10)


def test_a_call_that_hangs_is_given_up_and_others_go_on() -> None:
    calls, released = BoundedCalls(), threading.Event()
    began = time.monotonic()

    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        calls.run(released.wait, 0.05)

    assert time.monotonic() - began < 5
    assert calls.run(lambda: 7, 10) == 7
    released.set()


def test_when_too_many_hang_no_other_is_begun_until_one_is_back() -> None:
    calls, released, begun = BoundedCalls(most_hanging=2), threading.Event(), []
    for _ in range(2):
        with pytest.raises(TimeoutError):
            calls.run(released.wait, 0.01)

    with pytest.raises(TimeoutError, match="2 calls from before still hang"):
        calls.run(lambda: begun.append(1), 10)

    released.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            calls.run(lambda: begun.append(2), 10)
            break
        except TimeoutError:
            assert time.monotonic() < deadline
    assert begun == [2]


def test_many_that_do_not_hang_run_at_once() -> None:
    calls, together = BoundedCalls(most_hanging=1), threading.Barrier(5)

    with ThreadPoolExecutor(5) as threads:
        came = list(threads.map(lambda _: calls.run(lambda: together.wait(10), 20), range(5)))

    assert sorted(came) == [0, 1, 2, 3, 4]
