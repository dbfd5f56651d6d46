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
        ({"outputs": [{"name": "x" * 300}]}, "length <= 200"),
        ({"wall_time_s": -1}, "wall_time_s = -1: Expected `float` > 0"),
        ({"array": 0}, "array = 0: Expected `int` >= 1"),
        ({"id": "no dots.please"}, "id = 'no dots.please'"),
        ({"requirements": {"cpus": "two"}}, "requirements.cpus = 'two'"),
        ({"inputs": [{"name": "a"}]}, "needs exactly one of sha256"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "named twice"),
        ({"outputs": [{"name": "../etc/passwd"}]}, r"'..' is not allowed in a name"),
        ({"validation": "check.sh"}, "must be the name of one of the inputs"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_description({**GOOD, **change})

    assert said in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DecodeError, match="executable"):
        read_description({"id": "hello"})
