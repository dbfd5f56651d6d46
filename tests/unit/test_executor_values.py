"""What a call gives comes home as it was, and what a hostile guest writes in its place runs nothing."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
import subprocess
import sys
import uuid
import zoneinfo
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as some

from volcloud.errors import CannotTravel, RemoteException
from volcloud.executor.values import MOST_DEEP, read, write, write_error

ME = __name__


class Colour(enum.Enum):
    RED = 1


class Power(enum.Flag):
    READ = 1
    WRITE = 2


class Left:
    def __del__(self) -> None:
        print("its own code")


class Named(Exception):
    def __new__(cls, *words: str) -> Named:
        raise RuntimeError("its own code")


@dataclass
class Beside:
    x: int

    def __post_init__(self) -> None:
        self.y = self.x


@dataclass
class Listed(list[int]):
    x: int


class Point(NamedTuple):
    x: int
    y: float


@dataclass(frozen=True)
class Track:
    hits: list[int]
    at: Point
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.made.append("by its own code")


class Broken(Exception):
    def __init__(self, what: str, how: int) -> None:
        super().__init__(what, how)
        self.how = how


class Sly(Exception):
    ran: list[str] = []

    def __init__(self, *words: str) -> None:
        self.ran.append("its own code")


def there_and_back(value: Any) -> Any:
    return read(json.loads(json.dumps(write(value))))


SIMPLE = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False), some.text(), some.binary(),
    some.complex_numbers(allow_nan=False), some.decimals(allow_nan=False), some.fractions(), some.dates(), some.uuids(),
    some.datetimes(), some.times(), some.timedeltas(),
)  # fmt: skip
HASHABLE = some.one_of(some.integers(), some.text(), some.tuples(some.text(), some.integers()))
VALUES = some.recursive(
    SIMPLE,
    lambda inner: some.one_of(
        some.lists(inner), some.tuples(inner, inner), some.dictionaries(HASHABLE, inner), some.sets(HASHABLE),
        some.frozensets(HASHABLE),
    ),
    max_leaves=20,
)  # fmt: skip
JSON = some.recursive(
    some.one_of(some.none(), some.booleans(), some.integers(), some.floats(), some.text()),
    lambda inner: some.one_of(some.lists(inner), some.dictionaries(some.text(), inner)),
    max_leaves=20,
)
TAGS = ("list", "dict", "set", "int", "float", "range", "bytes", "error", "enum", "named", "data", "array", "path",
        "complex", "timedelta", "fraction", "decimal", "datetime", "uuid", "scalar")  # fmt: skip


@given(VALUES)
def test_data_comes_home_as_it_was(value: Any) -> None:
    came = there_and_back(value)

    assert came == value
    assert type(came) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        math.inf, bytearray(b"x"), range(3, 10**30, 7), datetime.timedelta(-1, 5), decimal.Decimal("1e999"),
        Fraction(1, 3), uuid.UUID(int=7), PurePosixPath("a/b"), Colour.RED, Point(1, 0.1),
        10**5000, Power.READ | Power.WRITE, re.IGNORECASE,
        datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
        datetime.time(1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=-3))),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_so_does_what_is_less_usual(value: Any) -> None:
    came = there_and_back(value)

    assert came == value
    assert type(came) is type(value)
    assert getattr(came, "fold", 0) == getattr(value, "fold", 0)


def test_nan_is_nan() -> None:
    assert math.isnan(there_and_back(math.nan))


def test_an_object_is_made_without_its_own_code() -> None:
    track = Track([1, 2], Point(0, 1.5))

    came = there_and_back(track)

    assert came == track
    assert came.made == ["by its own code"], "what was there when it was written, and no more"


def test_an_exception_has_its_type_its_arguments_and_what_it_knows() -> None:
    came = read(json.loads(json.dumps(write_error(Broken("wheel", 7)))))

    assert (type(came), came.args, came.how) == (Broken, ("wheel", 7), 7)
    assert str(read(write_error(OSError(2, "gone", "x")))) == "[Errno 2] gone: 'x'"
    assert str(read(write_error(KeyError("k")))) == "'k'"


def test_one_that_is_not_known_here_is_told_by_its_name() -> None:
    came = read(["error", "their.module", "Trouble", ["a"], {}, "it broke"])

    assert isinstance(came, RemoteException)
    assert str(came) == "their.module.Trouble: it broke"


def test_what_an_exception_holds_and_cannot_travel_is_text() -> None:
    assert read(write_error(ValueError(object)))  # a class is no value
    assert "object" in read(write_error(ValueError(object))).args[0]


@pytest.mark.parametrize(
    "value", [object(), open, sys, lambda: 0, iter([]), type], ids=lambda value: type(value).__name__
)
def test_what_is_no_data_is_named(value: Any) -> None:
    with pytest.raises(CannotTravel, match=rf"^a {type(value).__module__}\.{type(value).__qualname__}$"):
        write([value])


def test_what_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CannotTravel, match=f"deeper than {MOST_DEEP}"):
        write(endless)


@pytest.mark.parametrize(
    "tree",
    [
        ["error", "subprocess", "Popen", ["true"], {}, ""],
        ["error", "os", "system", ["true"], {}, ""],
        ["error", ME, "subprocess.CalledProcessError", [1, "x"], {}, ""],
        ["error", "not.loaded.at.all", "X", [], {}, ""],
    ],
    ids=str,
)
def test_a_guest_names_no_class_that_is_run_or_loaded(tree: Any) -> None:
    loaded = {*sys.modules}

    assert isinstance(read(tree), RemoteException)
    assert {*sys.modules} <= loaded


@pytest.mark.parametrize(
    "tree",
    [
        ["data", ME, "Broken", {}],
        ["data", "subprocess", "Popen", {}],
        ["data", ME, "Left", {}],
        ["flag", ME, "Power", 99],
        ["flag", ME, "Colour", 1],
        ["flag", ME, "Power", "READ"],
        ["fraction", ["0x1", "0x" + "1" * 20_000]],
        ["datetime", ["2026-01-01T00:00:00", 0, "../../etc/passwd"]],
        ["datetime", ["2026-01-01T00:00:00", 7, None]],
        ["data", ME, "Track", {"hits": ["list"]}],
        ["named", ME, "Point", [1]],
        ["named", "builtins", "tuple", [1]],
        ["enum", ME, "Colour", "BLUE"],
        ["enum", "builtins", "int", "1"],
        ["range", "0x1"],
        ["int", "0x" + "f" * (2 << 20)],
        ["decimal", "9" * 20_000],
        ["array", "gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAV0cnVllIWUUpQu"],
        ["bytes", "%%%"],
        ["set", ["list"]],
        ["dict", 1],
        [],
        {},
        1.5,
        ["nothing"],
    ],
    ids=lambda tree: str(tree)[:40],
)
def test_what_is_no_value_is_refused_in_words(tree: Any) -> None:
    with pytest.raises(CannotTravel):
        read(tree)


def test_no_constructor_runs_on_what_a_guest_says() -> None:
    came = read(["error", ME, "Sly", ["boo"], {"__class__": "x", "word": "w"}, ""])

    assert (type(came), came.word, Sly.ran) == (Sly, "w", [])


@given(some.one_of(JSON, some.builds(lambda tag, parts: [tag, *parts], some.sampled_from(TAGS), some.lists(JSON))))
def test_whatever_comes_is_a_value_or_refused(tree: Any) -> None:
    try:
        read(tree)
    except CannotTravel:
        pass


def test_a_guest_needs_nothing_but_python_for_it() -> None:
    code = "import sys, volcloud.executor.values, volcloud.executor.payload; print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)

    for name in ("msgspec", "click", "cloudpickle", "pika", "schemas", "broker"):
        assert f"'{name}" not in said.stdout


P = (1 << 61) - 1  # of a number and any multiple of this Python makes one hash


@pytest.mark.parametrize("tag", ["set", "frozenset"])
def test_keys_that_would_freeze_the_program_are_refused_however_they_are_mixed(tag: str) -> None:
    alike = [tag, *range(1, 5000), *(["int", hex(P * one)] for one in range(1, 5000))]

    with pytest.raises(CannotTravel, match="have one hash"):
        read(alike)


def test_a_number_that_is_long_to_compare_is_no_key() -> None:
    for key in (["int", hex(1 << 5000)], ["tuple", 1, ["int", hex(1 << 5000)]], ["decimal", "1E+5000"]):
        with pytest.raises(CannotTravel, match="a key that is a number"):
            read(["set", key])
    assert read(["list", ["int", hex(1 << 5000)]]) == [1 << 5000]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("UnicodeDecodeError", ["utf8", ["bytes", "YWJj"], -(10**12), 1, "r"]),
        ("UnicodeDecodeError", ["utf8", ["bytes", "YWJj"], 0, 10**12, "r"]),
        ("UnicodeEncodeError", ["utf8", "abc", 2, 2, "r"]),
        ("SyntaxError", ["m", ["tuple", "f", 1, 1, "x = 1", 1, 10**10]]),
        ("IndentationError", ["m", ["tuple", "f", 1, 1, "x = 1", 1, 10**10]]),
    ],
)
def test_what_python_shows_without_looking_whether_it_is_there_is_told_by_its_name(name: str, args: list[Any]) -> None:
    error = read(["error", "builtins", name, args, {}, "text"])

    assert isinstance(error, RemoteException)
    assert str(error).startswith(f"builtins.{name}: text")


def test_an_honest_one_of_these_comes_as_it_was() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()

    home = read(json.loads(json.dumps(write_error(caught.value))))

    assert (type(home), home.args) == (UnicodeDecodeError, caught.value.args)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("concurrent.futures._base", "CancelledError"),
        ("concurrent.futures._base", "InvalidStateError"),
        ("asyncio.exceptions", "QueueFull"),
        ("click.exceptions", "Exit"),
        ("broker.errors", "Disconnected"),
    ],
)
def test_what_says_something_of_the_program_itself_is_not_a_guests_to_raise(module: str, name: str) -> None:
    import click.exceptions

    assert click.exceptions.Exit.__module__ in sys.modules
    error = read(["error", module, name, [], {}, "text"])

    assert type(error) is RemoteException


def test_text_of_an_exception_commands_no_terminal_and_is_short() -> None:
    error = read(["error", "builtins", "ValueError", ["\x1b]0;owned\x07\n" + "x" * 100_000], {"why": "\x1b[2J"}, ""])

    assert type(error) is ValueError
    assert str(error).startswith("\\x1b]0;owned\\x07\nxxx")
    assert len(str(error)) < 30_000
    assert vars(error) == {"why": "\\x1b[2J"}


def test_a_flag_is_of_bits_that_there_are_and_leaves_nothing_behind() -> None:
    before = len(re.RegexFlag._value2member_map_)
    for value in (1 << 40, -1, re.RegexFlag.IGNORECASE.value | 1 << 50):
        with pytest.raises(CannotTravel, match="a flag of"):
            read(["flag", "re", "RegexFlag", value])

    assert read(["flag", "re", "RegexFlag", re.RegexFlag.IGNORECASE.value]) is re.RegexFlag.IGNORECASE
    assert len(re.RegexFlag._value2member_map_) == before


@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_an_array_whose_fields_have_names_that_would_come_home_as_others_is_refused() -> None:
    numpy = pytest.importorskip("numpy")
    written = write(numpy.zeros(2, dtype=[("α", "i4")]))

    with pytest.raises(CannotTravel, match="version"):
        read(written)
