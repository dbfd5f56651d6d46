"""What is wrong is told with the field, the value, what is allowed and an example; never in the words of a decoder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import inspect

from adapters.config import JobAdapterConfig, StorageAdapterConfig
from broker.daemon.config import read_config
from broker.errors import ConfigError
from broker.keys.config import KeysConfig
from host_agent.config import HostConfig
from schemas.amounts import read_mib, read_seconds
from schemas.codec import MESSAGES, decode
from schemas.description import JobDescription, read_description
from schemas.errors import DecodeError
from schemas.wanted import explain, words_of
from tests.unit.test_console import volcloud

GOOD = {"id": "a", "executable": "x"}
KINDS = (*MESSAGES.values(), JobAdapterConfig, StorageAdapterConfig, KeysConfig, HostConfig)
#: What only a decoder would say.
JARGON = re.compile(r"Expected|regex|`|\(\?!|\$\.|IntRange|range 1<=x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "run v1"}, "id = 'run v1': must be letters, digits, '-', '_' and '.' only"),
        ({"attempts": "two"}, "attempts = 'two': must be a whole number from 1 to 100, such as 2"),
        ({"attempts": 0}, "attempts = 0: must be a whole number from 1 to 100"),
        (
            {"requirements": {"memory_mib": "2 apples"}},
            "requirements.memory_mib = '2 apples': must be a whole number of MiB from 0 to 1,073,741,824, such as 2048"
            ' or "2GB"',
        ),
        ({"wall_time_s": "soon"}, "wall_time_s = 'soon': must be a number of seconds above 0"),
        ({"executable": 5}, "executable = 5: must be a text of at most 200 characters, not empty, in quotes"),
        ({"arguments": ["a", 1]}, "arguments[1] = 1: must be a text"),
        ({"inputs": ["a"]}, "inputs[0] = 'a': must be a table with the keys name"),
        ({"inputs": [{"name": "a", "sha256": "zz"}]}, "inputs[0].sha256 = 'zz': must be 64 digits of a SHA-256"),
        ({"outputs": [{"name": "a\x1bb"}]}, r"outputs[0].name = 'a\x1bb': must be the name of a file"),
        (
            {"environment": {"B": "b", "A": 1}},
            "environment.A = 1: must be a text of at most 120,000 characters",
        ),
        ({"environment": {"A B": 1}}, "environment[...]: must be a text"),
        ({"environment": {"A": "a", "": "x"}}, "environment: '' must be a text"),
        ({"outputs": [{"name": "a", "optional": "yes"}]}, "outputs[0].optional = 'yes': must be true or false"),
    ],
)
def test_a_description_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_description(GOOD | fields)

    assert said in caught.value.reason
    assert not JARGON.search(caught.value.reason)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DecodeError, match="executable is missing: it is required"):
        read_description({"id": "a"})


def test_a_message_that_cannot_be_read_is_refused_in_the_same_words() -> None:
    with pytest.raises(DecodeError, match=r"^not a message: job\.attempts: must be a whole number from 1 to 100"):
        decode(msgpack.packb({"op": "job.submit", "job": GOOD | {"attempts": "two"}}))


def test_a_configuration_is_refused_in_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('credential = "/c"\ndirectory = "/d"\n[[vms]]\nname = "Worker 1"\n')

    with pytest.raises(ConfigError, match=r"vms\[0\]\.name = 'Worker 1': must be a to z, 0 to 9 and '-' inside"):
        read_config(path, HostConfig)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vm", "create", "x", "--memory", "lots"), "'lots' must be MiB, or an amount with a unit, of at least 64;"),
        (("vm", "create", "x", "--memory", "1MB"), "an example: --memory 2GB"),
        (("vm", "create", "x", "--cpus", "many"), "'many' must be a whole number from 1 to 256"),
        (("up", "--vms", "-1"), "'-1' must be a whole number from 0 to 64"),
        (("up", "--memory", "x"), "an example: --memory 2GB"),
        (("vm", "run", "x", "-e", "A=B", "--", "true"), "'-e': options stand before the VM's name"),
        (("vm", "run", "--timeout", "soon", "x", "true"), "'soon' must be seconds, or a time with a unit"),
        (("job", "list", "--limit", "0"), "'0' must be a whole number from 1 to 1,000"),
    ],
)
def test_an_option_is_refused_in_words(arguments: tuple[str, ...], said: str) -> None:
    result = volcloud(*arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert not re.search(r"valid integer|in the range", result.stderr)


def texts(kind: inspect.Type, seen: set[Any]) -> Iterator[tuple[inspect.Type, inspect.StrType]]:
    """Give every type of a text below a type, with what it is wrapped in."""
    bare = kind.type if isinstance(kind, inspect.Metadata) else kind
    if isinstance(bare, inspect.StrType):
        yield kind, bare
    elif isinstance(bare, inspect.StructType) and bare.cls not in seen:
        seen.add(bare.cls)
        for field in bare.fields:
            yield from texts(field.type, seen)
    elif isinstance(bare, inspect.ListType):
        yield from texts(bare.item_type, seen)
    elif isinstance(bare, inspect.DictType):
        yield from texts(bare.key_type, seen)
        yield from texts(bare.value_type, seen)
    elif isinstance(bare, inspect.UnionType):
        for one in bare.types:
            yield from texts(one, seen)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_pattern_of_the_wire_and_of_the_settings_has_words(kind: type) -> None:
    for wrapped, bare in texts(inspect.type_info(kind), set()):
        assert not bare.pattern or bare.pattern not in words_of(wrapped), bare.pattern
        assert not bare.pattern or "characters that" not in words_of(wrapped)
        assert not JARGON.search(words_of(wrapped))
        assert not bare.pattern or words_of(wrapped) != words_of(bare)


_JUNK = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = [field.encode_name for field in msgspec.structs.fields(JobDescription)]


@given(some.dictionaries(some.sampled_from(_FIELDS), _JUNK, max_size=4))
def test_whatever_is_in_a_description_no_decoders_words_are_told(fields: dict[str, Any]) -> None:
    try:
        read_description(fields)
    except DecodeError as error:
        assert not re.search(r"Expected|regex|at `", error.reason)  # noqa: PT017


def test_words_about_no_field_stay() -> None:
    assert explain("Input data was truncated", JobDescription) == "Input data was truncated"


@pytest.mark.parametrize(
    ("text", "mib"),
    [("2048", 2048), ("2GB", 2048), ("2 GiB", 2048), ("1.5g", 1536), ("512m", 512), ("100k", 1), ("1T", 1 << 20)],
)
def test_an_amount_of_memory_has_a_unit_or_is_in_mib(text: str, mib: int) -> None:
    assert read_mib(text) == mib
    assert read_description(GOOD | {"requirements": {"memory_mib": text}}).requirements.memory_mib == mib


@pytest.mark.parametrize("text", ["", "GB", "2 apples", "-2GB", "two", "2GBs", "0x10", "1e3"])
def test_what_is_no_amount_of_memory_is_none(text: str) -> None:
    assert read_mib(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90 min", 5400), ("2h", 7200), ("1.5 hours", 5400), ("1d", 86400)]
)
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds
    assert read_description(GOOD | {"wall_time_s": text}).wall_time_s == seconds
