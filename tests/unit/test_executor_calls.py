"""Calls as they are packed, and what becomes of their futures: whoever ends them first."""

from __future__ import annotations

import functools
import importlib
import json
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import CancelledError, wait
from io import BytesIO
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from volcloud.errors import BadInput, CallFailed, PythonDiffers, RemoteException, RemoteTraceback
from volcloud.executor import executor as executor_module
from volcloud.executor.archive import build_archive
from volcloud.executor.batch import Chunk
from volcloud.executor.executor import _parts, _results
from volcloud.executor.packing import lay_out, pickle_calls, pickle_function
from volcloud.executor.values import write, write_error

HANDLE: Any = None


def uses_global() -> Any:
    return HANDLE.read()


def chunk(calls: int = 1) -> tuple[Chunk, list[str]]:
    cancelled: list[str] = []
    return Chunk(b"", calls, lambda: cancelled.append("cancelled")), cancelled


def told(*calls: dict[str, Any]) -> bytes:
    return json.dumps({"calls": calls}).encode()


def test_an_open_file_is_refused_by_the_name_that_it_has_in_the_call(tmp_path: Path, monkeypatch: Any) -> None:
    with (tmp_path / "log").open("w") as handle:
        monkeypatch.setattr(sys.modules[__name__], "HANDLE", handle)
        for call, place in (
            ((lambda: handle.write("x"), (), {}), "its variable 'handle'"),
            ((print, ("x", handle), {}), "argument 2"),
            ((print, (), {"file": handle}), "argument 'file'"),
            ((uses_global, (), {}), "its global 'HANDLE'"),
            ((print, ([handle],), {}), "something that it holds"),
        ):
            with pytest.raises(BadInput) as refused:
                pickle_calls([call])
            assert f"{place} is the open file '{tmp_path}/log'" in str(refused.value)
        with pytest.raises(BadInput, match="argument 1 is the open file"):
            pickle_calls([(None, (1,), {}), (None, (handle,), {})], print)


def test_what_does_not_pickle_is_told_with_its_call() -> None:
    with pytest.raises(BadInput, match=r"^print: cannot travel: .*lock"):
        pickle_calls([(print, (threading.Lock(),), {})])


def test_a_function_of_ones_own_module_travels_by_value_and_one_of_pythons_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_person.py").write_text("K = 3\ndef g(x): return K * x\ndef f(x): return g(x) + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = pickle_function(importlib.import_module("of_a_person").f)
    read = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(5))"

    elsewhere = subprocess.run([sys.executable, "-c", read], input=own, capture_output=True, check=True)

    assert elsewhere.stdout == b"16\n"
    assert cloudpickle.list_registry_pickle_by_value() == set()
    assert pickle.loads(pickle_function(json.dumps)) is json.dumps


def test_the_head_says_where_each_chunk_is() -> None:
    head = json.loads(lay_out([b"c", b"defg"], has_shared=True, trusted=False))

    assert (head["shared"], head["chunks"], head["trusted"]) == (True, [1, 4], False)
    assert head["python"] == list(sys.version_info[:3])


def test_the_archive_is_the_same_each_time_and_holds_what_a_guest_has_not() -> None:
    assert build_archive() == build_archive()
    names = zipfile.ZipFile(BytesIO(build_archive())).namelist()
    assert {"__main__.py", "cloudpickle/cloudpickle.py", "volcloud/executor/values.py"} <= {*names}


def test_each_call_has_its_own_result() -> None:
    one, _ = chunk(3)
    error = {"raised": write_error(ValueError("no", 3)), "traceback": "line 7"}
    one.end(told({"value": write([1])}, error, {"kept": "a socket.socket"}), trusted=False)

    first, second, third = one.futures
    assert first.result(0) == [1]
    with pytest.raises(ValueError, match="no") as raised:
        second.result(0)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "line 7" in str(raised.value.__cause__)
    with pytest.raises(CallFailed, match=r"stays in the guest: a socket\.socket"):
        third.result(0)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"[]", b"{}", b'{"calls": 3}', b'{"calls": []}', b'{"calls": [{}]}', b'{"calls": [[]]}',
        b'{"calls": [{"value": 1.5}]}', b'{"calls": [{"raised": 1, "traceback": ""}]}', b"[" * 100_000,
        b'{"python": "x"}', b'{"python": 7}', b"9" * 10_000, b'{"calls": [{"pickled": "gASVAAAA"}]}',
        told({"value": 1}, {"value": 2}),
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_whatever_a_guest_writes_ends_the_call_in_words(text: bytes) -> None:
    one, _ = chunk()
    one.end(text, trusted=False)

    with pytest.raises((CallFailed, PythonDiffers)) as failed:
        one.futures[0].result(0)
    assert len(str(failed.value)) < 1500
    assert failed.value.next_step


def test_what_is_pickled_is_read_of_guests_that_are_trusted_alone() -> None:
    ran: list[str] = []
    evil = b'{"calls": [{"pickled": "gARLBy4="}]}'
    trusting, _ = chunk()
    trusting.end(evil, trusted=True)
    assert trusting.futures[0].result(0) == 7

    one, _ = chunk()
    one.end(evil, trusted=False)
    with pytest.raises(CallFailed):
        one.futures[0].result(0)
    assert ran == []


def test_another_python_is_told_with_both_versions() -> None:
    one, _ = chunk()
    one.end(b'{"python": [3, 9, 2]}', trusted=False)

    ours = ".".join(map(str, sys.version_info[:3]))
    with pytest.raises(PythonDiffers, match=rf"Python is 3\.9\.2 in the guest and {ours} here"):
        one.futures[0].result(0)


def test_an_exception_of_a_class_that_is_not_here_says_which() -> None:
    one, _ = chunk()
    one.end(told({"raised": ["error", "far.away", "Boom", [], {}, "it broke"], "traceback": ""}), trusted=False)

    with pytest.raises(RemoteException, match=r"far\.away\.Boom: it broke"):
        one.futures[0].result(0)


def test_one_that_is_cancelled_stays_so_whatever_comes_then() -> None:
    one, cancelled = chunk(2)
    assert one.futures[0].cancel()
    assert one.futures[0].cancel()
    assert (cancelled, one.is_cancelled) == (["cancelled"], False)
    one.end(told({"value": 1}, {"value": 2}), trusted=False)

    assert wait(one.futures, 0).not_done == set()
    with pytest.raises(CancelledError):
        one.futures[0].result(0)
    assert one.futures[1].result(0) == 2
    assert not one.futures[1].cancel()


def test_who_cancels_and_who_brings_the_result_may_come_at_once() -> None:
    for _ in range(300):
        one, cancelled = chunk()
        both = threading.Barrier(2)

        def bring(one: Chunk = one, both: threading.Barrier = both) -> None:
            both.wait()
            one.end(told({"value": 1}), trusted=False)

        bringing = threading.Thread(target=bring, daemon=True)
        bringing.start()
        both.wait()
        was_cancelled = one.futures[0].cancel()
        bringing.join(10)

        assert wait(one.futures, 10).not_done == set()
        assert one.futures[0].cancelled() == was_cancelled == bool(cancelled)


def test_one_result_that_cannot_be_read_costs_no_other_call() -> None:
    one, _ = chunk(3)
    one.end(told({"value": 1}, {"value": ["nothing"]}, {"value": 3}), trusted=False)

    assert (one.futures[0].result(0), one.futures[2].result(0)) == (1, 3)
    with pytest.raises(CallFailed, match="cannot be read"):
        one.futures[1].result(0)


def test_what_was_raised_before_any_call_is_raised_by_each() -> None:
    one, _ = chunk(2)
    error = write_error(ModuleNotFoundError("No module named 'mine'", name="mine"))
    one.end(json.dumps({"raised": error, "traceback": "while it was read"}).encode(), trusted=False)

    for future in one.futures:
        with pytest.raises(ModuleNotFoundError, match="mine"):
            future.result(0)


def test_callbacks_that_cancel_each_other_from_two_threads_stand_in_nobodys_way() -> None:
    for _ in range(50):
        (one, _), (other, _), both = chunk(), chunk(), threading.Barrier(2)
        first, second = one.futures[0], other.futures[0]
        first.add_done_callback(lambda _, second=second: second.cancel())  # type: ignore[misc]
        second.add_done_callback(lambda _, first=first: first.cancel())  # type: ignore[misc]

        def cancel(future: Any, both: threading.Barrier = both) -> None:
            both.wait()
            future.cancel()

        threads = [threading.Thread(target=cancel, args=(future,), daemon=True) for future in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wait([first, second], 0).not_done == set()


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), RuntimeError()], ids=lambda e: type(e).__name__)
def test_a_callback_that_raises_ends_no_other_call(raised: BaseException) -> None:
    def raise_it(_: object) -> None:
        raise raised

    one, _ = chunk(2)
    one.futures[0].add_done_callback(raise_it)
    one.end(told({"value": 1}, {"value": 2}), trusted=False)

    assert (one.is_done, one.futures[1].result(0)) == (True, 2)


def test_words_of_a_guest_are_plain_and_short() -> None:
    evil = "\x1b]0;title\x07\x1b[2J" + "x" * 1_000_000
    one, _ = chunk(3)
    far = {"raised": ["error", "far.away", "Boom", [], {}, evil], "traceback": evil}
    one.end(told({"kept": evil}, far, {"value": [evil]}), trusted=False)

    for future in one.futures:
        error = future.exception(0)
        for text in (str(error), str(error.__cause__ or "")):
            assert "\x1b" not in text
            assert len(text) < 30_000


def test_a_result_of_too_many_parts_is_refused_before_it_is_read() -> None:
    one, _ = chunk(1)

    one.end(b'{"calls": [{"value": ["list"' + b", []" * 1_100_000 + b"]}]}", trusted=False)

    error = one.futures[0].exception(0)
    assert isinstance(error, CallFailed)
    assert "give an array, or bytes" in str(error)


def test_what_was_raised_before_any_call_is_read_once() -> None:
    one, _ = chunk(500)
    raised = ["error", "builtins", "ValueError", [["list", *range(1000)]], {}, "text"]

    one.end(json.dumps({"raised": raised, "traceback": ""}).encode(), trusted=False)

    assert len({id(future.exception(0)) for future in one.futures}) == 1


def test_classes_of_ones_own_travel_also_where_there_are_several_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_mine.py").write_text("class K:\n    k = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("of_mine")
    sent = pickle_calls([(len, ([1],), {}), (len, ([own.K()],), {}), (vars, (own.K(),), {})])
    read = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer)))"

    elsewhere = subprocess.run([sys.executable, "-c", read], input=sent, capture_output=True, check=False)

    assert elsewhere.stdout == b"3\n", elsewhere.stderr


def test_functions_of_ones_own_travel_whatever_they_are_wrapped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_another.py").write_text("class K:\n    k = 7\ndef f(x, k): return k.k * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("of_another")
    sent = pickle_calls([(functools.partial(own.f, k=own.K()), (3,), {})])
    read = "import pickle, sys; [(f, a, k)] = pickle.load(sys.stdin.buffer); print(f(*a, **k))"

    elsewhere = subprocess.run([sys.executable, "-c", read], input=sent, capture_output=True, check=True)

    assert elsewhere.stdout == b"21\n"


def test_a_file_that_is_in_memory_alone_travels() -> None:
    assert pickle.loads(pickle_calls([(len, (BytesIO(b"x"),), {})]))[0][1][0].getvalue() == b"x"


def test_results_that_are_not_taken_in_time_are_cancelled_the_one_that_is_waited_for_too() -> None:
    one, cancelled = chunk(3)
    results = _results([*one.futures], time.monotonic())

    with pytest.raises(TimeoutError):
        next(results)
    assert all(future.cancelled() for future in one.futures)
    assert len(cancelled) == 3


def test_batches_are_divided_by_what_they_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "BATCH_BYTES", 10)
    chunks = [Chunk(bytes(size), 1, lambda: None) for size in (4, 4, 4, 20, 1)]

    assert [[len(one.pickled) for one in part] for part in _parts(chunks)] == [[4, 4], [4], [20], [1]]
