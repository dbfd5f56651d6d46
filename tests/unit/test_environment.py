"""Variables that a command is to have in a VM: a name that none can have is refused before anything is sent."""

from __future__ import annotations

import click
import pytest

from volcloud.client.execs import check_environment
from volcloud.commands.execs import environment_of
from volcloud.errors import BadInput


@pytest.mark.parametrize("name", ["A=B", "=A", "", "A\0B"])
def test_a_name_that_no_variable_can_have_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(BadInput, match="must not be empty, nor hold '=' or a NUL") as caught:
        check_environment({"GOOD": "1", name: "2"})

    assert repr(name) in str(caught.value)


def test_a_value_may_hold_anything_but_a_nul_character() -> None:
    check_environment({"A": "a=b", "B": ""})

    with pytest.raises(BadInput, match="'A' = "):
        check_environment({"A": "b\0c"})


@pytest.mark.parametrize("pair", ["A", "=", "=A", "==A", ""])
def test_what_is_no_pair_of_a_name_and_a_value_is_refused_as_it_was_typed(pair: str) -> None:
    with pytest.raises(click.BadParameter, match="must be NAME=VALUE"):
        environment_of([pair])


def test_the_first_sign_ends_the_name() -> None:
    assert environment_of(["A=b=c", "D="]) == {"A": "b=c", "D": ""}
