"""What strangers say is text: every command is walked with hostile words in every field that others write."""

from __future__ import annotations

import ast
import enum
import json
import logging
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as some

import volcloud.commands.broker
import volcloud.commands.centre
import volcloud.commands.dead
from broker.daemon.logs import EventFormatter
from broker.errors import RemoteError
from broker.node import NodeAddress
from schemas.errors import ErrorCode
from schemas.plain_text import plain, plain_all, plain_lines
from schemas.terminal_text import TerminalText
from schemas.vms import VmState, VmStatus
from tests.unit.test_console import COMMANDS
from volcloud import Client
from volcloud.bars import file_bar, transfer_bars
from volcloud.centre.overview import Overview
from volcloud.centre.voice import Voice
from volcloud.client.shown import Table
from volcloud.command_line import cli
from volcloud.dead_letters import DeadLetters
from volcloud.errors import CommandFailed
from volcloud.invocation import Invocation
from volcloud.screen import Screen

ROOT = Path(__file__).parents[2]
#: Markup that closes what was never opened, an escape that clears the screen, C1's form of it, a forged line, a mark
#: that turns the direction of writing, and a character that nobody sees.
HOSTILE = "[/x] a[/tmp] [a-z] \x1b[2J\x9b2J\x07\r\nError: forged\u202egpj.exe\u200b\x7f :smile:"
MILD = "[/][a-z]"
NODE = NodeAddress(host="h", amqp_port=1, management_port=2, prometheus_port=3, admin_user="a", admin_password="b")

#: What each command needs on its line; the others need nothing.
ARGUMENTS: dict[tuple[str, ...], list[str]] = {
    ("vm", "create"): ["x"],
    ("vm", "run"): ["x", "--", "true"],
    ("vm", "push"): ["x", __file__],
    ("vm", "pull"): ["x", "y", "z"],
    ("vm", "attach"): ["x", "0-1"],
    ("vm", "kill"): ["x", "0-1"],
    ("job", "submit"): ["job.toml"],
    ("job", "list"): [],
    ("job", "fetch"): ["x", "-o", "out"],
    ("site", "add"): ["x", "-o", "login.json"],
    ("site", "list"): [],
    ("source", "list"): [],
    ("site", "set"): ["x", "--share", "2"],
    **{("vm", "snapshot", word): ["x", "y"] for word in ("take", "restore", "delete")},
    ("vm", "list"): [],
}
#: These print what they are doing on this machine, and nothing that a stranger says.
LOCAL = {("up",), ("down",), ("broker", "declare"), ("vm", "shell"), ("xmlrpc",)}
#: These pass on what a guest has printed: to a pipe byte for byte, to a terminal by ``OutputStream``.
AS_PRINTED = {("job", "logs"), ("vm", "log")}
#: These print what the person asked for, byte for byte, or nothing.
BYTES = {("vm", "run"), ("vm", "attach"), ("vm", "kill")}
#: Those that show nothing which others have said, and have no JSON.
SHOW_NOTHING = {("vm", "push"), ("vm", "pull"), ("site", "delete"), ("source", "delete")}
WALKED = [command for command in COMMANDS if command not in LOCAL]


def filled(kind: Any, word: str) -> Any:
    """Build a value of a type with ``word`` in every text of it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return filled(arguments[0], word)
    if origin in (typing.Union, types.UnionType):
        return filled(arguments[0], word)
    if origin in (list, Table, Sequence):
        return (Table if origin is Table else list)([filled(arguments[0], word)])
    if origin is tuple:
        return (filled(arguments[0], word),)
    if origin is dict:
        return {filled(arguments[0], word): filled(arguments[1], word)}
    if kind is str:
        return word
    if kind is bytes:
        return word.encode()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind, include_extras=False)
        return kind(**{name: filled(hints[name], word) for name in kind.__struct_fields__})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return getattr(kind, "DONE", next(iter(kind)))
    if kind is BaseException:
        return CommandFailed(word, word)
    return Path(word) if kind is Path else None if kind is type(None) else kind(1)


class Stranger:
    """A client whose every answer is made of one word; or whose every question fails with it."""

    def __init__(self, word: str, error: Exception | None) -> None:
        self._word, self._error = word, error

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, noun: str) -> StrangersRoom:
        return StrangersRoom(get_type_hints(Client)[noun], self._word, self._error)


class StrangersRoom:
    """What such a client says of one noun."""

    def __init__(self, kind: type, word: str, error: Exception | None) -> None:
        self._kind, self._word, self._error = kind, word, error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*_: object, **__: object) -> Any:
            if self._error is not None:
                raise self._error
            return filled(get_type_hints(getattr(self._kind, name))["return"], self._word)

        return answer


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "job.toml").write_text('id = "x"\nexecutable = "/bin/true"\n')

    def run(command: tuple[str, ...], word: str, *options: str, error: Exception | None = None) -> Result:
        monkeypatch.setattr(Invocation, "client", lambda _: Stranger(word, error))
        letters = filled(get_type_hints(DeadLetters.list)["return"], word)
        monkeypatch.setattr(DeadLetters, "list", lambda _: letters)
        for verb in ("show", "replay", "drop"):
            monkeypatch.setattr(DeadLetters, verb, lambda *_: letters[0])
        monkeypatch.setattr(volcloud.commands.dead, "read_node_address", lambda _: NODE)
        monkeypatch.setattr(volcloud.commands.broker, "read_node_address", lambda _: NODE)
        monkeypatch.setattr(volcloud.commands.broker, "_expected", lambda *_: [])
        difference = volcloud.commands.broker.Difference
        monkeypatch.setattr(volcloud.commands.broker, "check", lambda *_: [filled(difference, word)])
        monkeypatch.setattr(volcloud.commands.centre, "look", lambda _: filled(Overview, word))
        monkeypatch.setattr("volcloud.commands.sites.console_address", lambda _: filled(_address(), word))
        arguments = ARGUMENTS.get(command, ["x"] if command[0] in ("vm", "job", "site") or len(command) > 1 else [])
        if command in {("dead", "list"), ("host", "list"), ("broker", "check")}:
            arguments = []
        return CliRunner().invoke(cli, [*command, *options, *arguments])

    return run


def _address() -> type:
    from broker.address import Address

    return Address


def bad_characters(text: str) -> set[str]:
    """Name what must not reach a terminal; colours, and the movements of a bar that is drawn again, are ours."""
    ours = re.sub(r"\x1b\[([0-9;]*m|\?25[lh]|2K|1A)|\r(?!\n)", "", text)
    return {c for c in ours if not c.isprintable() and c != "\n"}


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("command", [c for c in WALKED if c not in AS_PRINTED], ids=" ".join)
def test_no_command_shows_hostile_words_as_anything_but_text(
    walk: Callable[..., Result], command: tuple[str, ...], terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")

    result = walk(command, HOSTILE)

    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "a fault of volcloud" not in result.stderr
    assert bad_characters(result.stdout) == bad_characters(result.stderr) == set()
    assert not re.search("^Error: forged", result.output, re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in WALKED if c not in {*BYTES, ("job", "logs")}], ids=" ".join)
def test_every_command_shows_what_looks_like_markup(walk: Callable[..., Result], command: tuple[str, ...]) -> None:
    result = walk(command, MILD)

    shows_nothing_of_others = command in SHOW_NOTHING
    counts_only = command in {("job", "cancel"), ("job", "retry"), ("job", "wait"), ("job", "delete")}
    assert shows_nothing_of_others or counts_only or MILD in re.sub(r"\s", "", result.output), result.output


@pytest.mark.parametrize("command", [c for c in WALKED if c[0] not in ("dead", "broker", "status")], ids=" ".join)
def test_every_command_tells_a_hostile_error_as_text(walk: Callable[..., Result], command: tuple[str, ...]) -> None:
    result = walk(command, HOSTILE, error=RemoteError(ErrorCode.CONFLICT, HOSTILE, HOSTILE))

    assert result.exit_code in (1, 125)
    assert "[/x] a[/tmp] [a-z] \\x1b[2J" in result.stderr
    assert bad_characters(result.output) == set()
    assert not re.search("^Error: forged", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [c for c in WALKED if c not in {*BYTES, *SHOW_NOTHING}],
    ids=" ".join,
)
def test_json_says_the_same_and_holds_nothing_that_commands_a_terminal(
    walk: Callable[..., Result], command: tuple[str, ...]
) -> None:
    result = walk(command, HOSTILE, "--json")

    assert bad_characters(result.output) == set()
    said = json.loads(result.stdout)
    counts_only = command in {("job", "cancel"), ("job", "retry"), ("job", "logs")}
    assert counts_only or HOSTILE in texts(said)


def texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {text for pair in value.items() for one in pair for text in texts(one)}
    if isinstance(value, list):
        return {text for one in value for text in texts(one)}
    return {value} if isinstance(value, str) else set()


def test_a_bar_shows_its_label_as_text() -> None:
    with transfer_bars() as bars:
        file_bar(bars, HOSTILE)(1, 2)
        screen = Screen(width=300)
        with screen.capture() as captured:
            screen.print(bars.get_renderable())

    assert "[/x] a[/tmp] [a-z] \\x1b[2J" in captured.get()
    assert bad_characters(captured.get()) == set()


def test_a_line_of_the_supervisor_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Voice().say(HOSTILE)

    assert bad_characters(capsys.readouterr().out) == set()


def test_only_the_screen_opens_the_door_to_the_terminal() -> None:
    doors = {"Console", "TextColumn", "print", "click.echo", "click.secho"}
    opened = set()
    for path in sorted((ROOT / "volcloud").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in doors:
                opened.add((path.name, ast.unparse(node.func)))

    assert opened == set()
    assert [base.__name__ for base in Screen.__bases__] == ["Console"]


@given(some.text())
def test_plain_text_is_on_one_line_prints_and_is_made_once(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)
    assert plain_lines(text).replace("\n", "").replace("\t", "").isprintable()


def test_texts_are_made_plain_at_any_depth() -> None:
    status = VmStatus(
        vm="v", name="a\nb", state=VmState.RUNNING, generation=1, hypervisor="x", cpus=1, memory_mib=1, disk_mib=1
    )

    assert plain_all({"a\x1b": [status, b"\x1b"]})["a\\x1b"][0].name == "a\\nb"  # type: ignore[attr-defined, index]


@given(some.binary(), some.lists(some.integers(0, 40)), some.booleans())
def test_a_strangers_output_on_a_terminal_is_the_same_however_it_was_cut(
    data: bytes, cuts: list[int], marked: bool
) -> None:
    whole = TerminalText(is_marked=marked)
    pieces, parts = TerminalText(is_marked=marked), []
    rest = data
    for cut in cuts:
        parts.append(pieces.take(rest[:cut]))
        rest = rest[cut:]

    text = "".join(parts) + pieces.take(rest, is_last=True)

    assert bad_characters(text) <= ({"\t"} if marked else {"\t", "\r", "\b"})
    if "\r" not in data.decode(errors="replace"):
        assert text == whole.take(data, is_last=True)


def test_colours_of_a_command_stay_and_its_cursor_movements_are_shown() -> None:
    text = TerminalText(is_marked=False)

    assert text.take(b"\x1b[31mred\x1b[0m 50%\r100%\x1b[2") == "\x1b[31mred\x1b[0m 50%\r100%"
    assert text.take(b"J\x1b]0;title\x07") == "\\x1b[2J\\x1b]0;title\\x07"


def test_a_strangers_words_forge_no_line_of_a_log() -> None:
    formatter = EventFormatter("job_adapter")
    forged = "x\n2026-11-28T00:00:00 INFO job_adapter started"
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "refused", None, None)
    record.detail = forged
    try:
        raise ValueError(forged)
    except ValueError:
        record.exc_info = sys.exc_info()

    lines = formatter.format(record).splitlines()

    assert lines[0].endswith(r"detail='x\n2026-11-28T00:00:00 INFO job_adapter started'")
    assert len(lines) > 1
    assert all(line.startswith("  ") for line in lines[1:])
