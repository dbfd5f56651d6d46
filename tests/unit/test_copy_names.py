"""Names of copies: safe whatever strangers call their outputs, the same each time, and never one for two."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.grid_stores.names import MOST_NAME, checked, collection_name, copy_name

JOBS = st.from_regex(r"[a-z0-9-]{1,80}/[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\.[1-9][0-9]{0,6}", fullmatch=True)
ATTEMPTS = st.integers(0, 1_000_000)
NEAR = st.text(alphabet="ab./_-~A0\n ", max_size=8)
OUTPUTS = st.one_of(st.text(max_size=1100), NEAR, st.just("../../etc/passwd"))
THINGS = st.tuples(JOBS, ATTEMPTS, OUTPUTS)


@given(THINGS)
@example(("a/j.1", 1, ".."))
@example(("-/j...1", 1, ""))
@example(("a/j.1", 1, "\ud800"))
@example((f"{'a' * 80}/{'j' * 128}.1000000", 1_000_000, "x" * 1024))
def test_a_name_is_safe_whatever_it_is_made_of(thing: tuple[str, int, str]) -> None:
    name = copy_name(*thing)

    assert re.fullmatch(r"[A-Za-z0-9._/-]+", name)
    assert len(name) <= MOST_NAME
    assert len(name.replace("/", "..")) <= MOST_NAME
    parts = name.split("/")
    assert len(parts) == 4
    assert all(re.match("[A-Za-z0-9]", part) and ".." not in part and not part.endswith(".") for part in parts)
    assert checked(name) == name == copy_name(*thing)


@given(THINGS, THINGS)
@example(("a/j.1", 1, "a/b"), ("a/j.1", 1, "a_b"))
@example(("a/j.1", 1, "x" * 200), ("a/j.1", 1, "y" + "x" * 199))
@example(("a/a.1.x.2", 1, "o"), ("a/a.1", 1, "x.2.o"))
def test_two_outputs_never_have_one_name(one: tuple[str, int, str], other: tuple[str, int, str]) -> None:
    assert (copy_name(*one) == copy_name(*other)) == (one == other)


@given(OUTPUTS)
def test_no_output_can_be_called_as_another_one_is_kept(output: str) -> None:
    kept = copy_name("a/j.1", 1, output).rpartition("/")[2]

    assert kept == output or copy_name("a/j.1", 1, kept).rpartition("/")[2] != kept


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("histogram.root", "histogram.root"),
        ("log_2-b.tar.gz", "log_2-b.tar.gz"),
        ("deep/out.txt", "7c2a1ea4a1be37e2bf8d1a69.deep_out.txt"),
    ],
)
def test_a_usual_name_stays_and_another_can_be_recognised(output: str, kept: str) -> None:
    name = copy_name("site-a/run-7.12", 3, output)

    assert name.startswith("site-a/run-7.12/3/")
    assert name.endswith(kept.partition(".")[2] if kept != output else kept)
    assert (name == f"site-a/run-7.12/3/{output}") == (kept == output)


@pytest.mark.parametrize("ref", ["", "a", "a/b", "A/b.1", "a/b.0", "a/../b.1", "a/b.1\n", "/b.1", "a//b.1"])
def test_what_is_no_job_is_refused(ref: str) -> None:
    with pytest.raises(ValueError, match="job"):
        copy_name(ref, 1, "out")
    with pytest.raises(ValueError, match="job"):
        collection_name(ref)


@given(JOBS, ATTEMPTS, OUTPUTS)
def test_what_gathers_copies_is_called_as_no_copy_is(ref: str, attempt: int, output: str) -> None:
    collection = collection_name(ref)

    assert collection.count("/") == 1
    assert copy_name(ref, attempt, output).count("/") == 3
    assert collection == collection_name(f"{ref.rpartition('.')[0]}.7")


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "a/../b", "..", ".a", "a/.b", "a b", "a\n", "ä", "a?b", "a%2e", "a:b"]
)
def test_a_name_that_is_not_safe_is_not_taken(name: str) -> None:
    with pytest.raises(ValueError, match="may not be called so"):
        checked(name)
