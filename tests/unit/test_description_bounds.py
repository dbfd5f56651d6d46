"""What a description may hold: nothing that cannot run, nothing whose size a stranger decides."""

from __future__ import annotations

import time
from typing import Any

import pytest

from schemas.codec import decode, encode
from schemas.description import Input, JobDescription, Output, Requirements, check_description, read_description
from schemas.errors import DecodeError
from schemas.ledger import JobSubmit

GOOD: dict[str, Any] = {"id": "hello", "executable": "/bin/echo"}


def file(name: str) -> dict[str, Any]:
    return {"name": name, "content": b""}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": [file("a"), file("a/b")]}, "inputs: 'a' cannot be a file and a directory"),
        ({"inputs": [file("d/e/f"), file("d/e")]}, "inputs: 'd/e' cannot be a file and a directory"),
        ({"outputs": [{"name": "o"}, {"name": "o/p"}]}, "outputs: 'o' cannot be a file and a directory"),
        ({"inputs": [file(".")]}, "inputs: '.': '.' is not allowed in a name"),
        ({"inputs": [file("a/./b")]}, "inputs: 'a/./b': '.' is not allowed in a name"),
        ({"executable": "a\0b"}, "executable: 'a\\x00b' holds a NUL character"),
        ({"arguments": ["x", "a\0"]}, "arguments: 'a\\x00' holds a NUL character"),
        ({"environment": {"A=B": "x"}}, "environment: 'A=B' is no name of a variable"),
        ({"environment": {"A": "\0"}}, "environment: 'A' holds a NUL character"),
    ],
)
def test_what_can_never_run_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_description({**GOOD, **change})

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "job"),
    [
        ("requirements.features", JobDescription(**GOOD, requirements=Requirements(features=["f"] * 65))),
        ("requirements.features", JobDescription(**GOOD, requirements=Requirements(features=["f" * 65]))),
        ("requirements.platform", JobDescription(**GOOD, requirements=Requirements(platform="p" * 65))),
        ("requirements.image", JobDescription(**GOOD, requirements=Requirements(image="i" * 129))),
        ("requirements.memory_mib", JobDescription(**GOOD, requirements=Requirements(memory_mib=1 << 50))),
        ("environment", JobDescription(**GOOD, environment={f"V{n}": "" for n in range(1001)})),
        ("environment", JobDescription(**GOOD, environment={"": ""})),
        ("labels", JobDescription(**GOOD, labels={f"l{n}": "" for n in range(65)})),
        ("arguments", JobDescription(**GOOD, arguments=["x"] * 10_001)),
        ("inputs", JobDescription(**GOOD, inputs=[Input(name=f"i{n}", content=b"") for n in range(2001)])),
        ("outputs", JobDescription(**GOOD, outputs=[Output(name=f"o{n}") for n in range(10_001)])),
    ],
)
def test_what_is_too_much_is_named(field: str, job: JobDescription) -> None:
    with pytest.raises(DecodeError, match=rf"job\.{field}(\[\w*\])?: "):
        decode(encode(JobSubmit(job=job)))


def test_forty_thousand_names_are_judged_at_once() -> None:
    names = [f"out{n}" for n in range(40_000)]
    job = JobDescription(**GOOD, outputs=[Output(name=name) for name in (*names, names[7])])

    began = time.process_time()
    problems = check_description(job)

    assert "outputs: 'out7' is named twice" in problems
    assert time.process_time() - began < 5
