"""Job descriptions: a mistake of a person is named with field, value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.description import read_description
from schemas.errors import DecodeError

GOOD: dict[str, Any] = {"id": "hello", "executable": "/bin/echo", "arguments": ["{index}"]}


def test_a_small_description_is_read_with_its_defaults() -> None:
    job = read_description(GOOD)

    assert (job.array, job.attempts, job.requirements.cpus) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"executabel": "x"}, "unknown key executabel: did you mean 'executable'?"),
        ({"requirements": {"cpu": 2}}, "unknown key requirements.cpu: did you mean 'cpus'?"),
        ({"inputs": [{"nam": "a"}]}, "unknown key inputs.nam: did you mean 'name'?"),
        ({"zzz": 1}, "unknown key zzz: allowed are id, executable"),
        ({"id": "hello\n"}, "id = 'hello"),
        ({"outputs": [{"name": "x" * 300}]}, "at most 200"),
        ({"wall_time_s": -1}, "wall_time_s = -1: must be a number of seconds above 0, at most"),
        ({"array": 0}, "array = 0: must be a whole number from 1 to 100,000, such as"),
        ({"id": "no dots.please"}, "id = 'no dots.please'"),
        ({"requirements": {"cpus": "two"}}, "requirements.cpus = 'two'"),
        ({"inputs": [{"name": "a"}]}, "needs exactly one of sha256"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "named twice"),
        ({"outputs": [{"name": "../etc/passwd"}]}, r"'..' is not allowed in a name"),
        ({"outputs": [{"name": "stdout"}]}, "'stdout' is kept for every job without being asked for"),
        ({"outputs": [{"name": "validation.stderr"}]}, "is kept for every job"),
        (
            {"outputs": [{"name": "/etc/passwd"}]},
            "outputs[0].name = '/etc/passwd': must be the name of a file in the job",
        ),
        ({"inputs": [{"name": "é" * 150, "content": b""}]}, "has more than 255 bytes"),
        ({"id": "run.1"}, 'such as "run-7.v1"'),
        ({"environment": {"": "x"}}, "environment"),
        ({"environment": {"A=B": "x"}}, "environment: 'A=B'"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"validation": "check.sh"}, "must be the name of one of the inputs"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_description({**GOOD, **change})

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "run-2026.11.v1_final" + "x" * 100},
        {"outputs": [{"name": "*.root"}, {"name": "injections_10^{6}_test.hdf5"}, {"name": "a b/Zerfälle (2).root"}]},
        {"grace_s": 60},
    ],
)
def test_names_of_the_real_world_are_taken(change: dict[str, Any]) -> None:
    assert read_description({**GOOD, **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DecodeError, match="executable"):
        read_description({"id": "hello"})
