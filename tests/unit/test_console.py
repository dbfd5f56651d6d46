"""``volcloud`` where no broker is needed: help, usage, bad files, and what it says when nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from broker.address import Address, write_address
from broker.errors import CallTimeout, Disconnected, LoginRefused, RemoteError, Unroutable
from schemas.endpoints import Endpoint
from schemas.errors import ErrorCode
from schemas.grids import SourceRow
from volcloud.command_line import cli
from volcloud.data_directory import credential_path, data_directory
from volcloud.errors import BadInput, CommandFailed, Unreachable
from volcloud.invocation import Invocation
from volcloud.later import commands_of
from volcloud.telling import judge


def volcloud(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments], prog_name="volcloud")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name, child in commands_of(command).items():
            yield from leaves(child, (*path, name))
    else:
        yield path


COMMANDS = sorted(leaves(cli))


def test_every_command_of_the_specification_is_there() -> None:
    vm = (
        "list",
        "create",
        "start",
        "stop",
        "pause",
        "resume",
        "reset",
        "poweroff",
        "savestate",
        "delete",
        "discard",
        "adopt",
        "stats",
        "screenshot",
        "log",
        "show",
        "events",
    )
    wanted = {
        ("up",),
        ("down",),
        ("status",),
        ("broker", "declare"),
        ("broker", "check"),
        ("host", "list"),
        ("host", "show"),
    }
    wanted |= {("vm", verb) for verb in (*vm, "run", "shell", "ps", "attach", "kill", "push", "pull")}
    wanted |= {("vm", "snapshot", word) for word in ("take", "restore", "list", "delete")}
    wanted |= {
        ("job", verb)
        for verb in ("submit", "list", "show", "why", "logs", "cancel", "retry", "delete", "fetch", "wait")
    }
    wanted |= {("dead", verb) for verb in ("list", "show", "replay", "drop")}
    wanted |= {("site", verb) for verb in ("add", "list", "set", "delete")}
    wanted |= {("source", verb) for verb in ("list", "retry", "delete")}

    wanted |= {("xmlrpc",)}

    assert set(COMMANDS) == wanted


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_of_that_very_command(command: tuple[str, ...]) -> None:
    result = volcloud(*command, "--help")

    assert result.exit_code == 0
    assert f"Example:\n    volcloud {' '.join(command)}" in result.output


@pytest.mark.parametrize("group", ["job", "vm", "host", "site", "dead", "broker"])
def test_a_group_without_a_command_shows_its_help(group: str) -> None:
    result = volcloud(group)

    assert result.exit_code == 2
    assert "Commands:" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "submt"),
        ("job", "list", "--stat", "done"),
        ("vm", "run", "atlas-1"),
        ("up", "--vms", "many"),
        ("nothing",),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    assert volcloud(*arguments).exit_code == 2


def test_a_misspelt_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('id = "a"\nexecutable = "/bin/true"\nenviroment = { A = "b" }\n')

    result = volcloud("job", "submit", str(path))

    assert result.exit_code == 2
    assert "unknown key enviroment: did you mean 'environment'?" in result.stderr
    assert "Next:" in result.stderr


def test_a_missing_input_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('id = "a"\nexecutable = "/bin/true"\ninputs = [{ path = "none.dat" }]\n')

    result = volcloud("job", "submit", str(path), "--data", str(tmp_path / "nowhere"))

    assert result.exit_code == 2
    assert f"{tmp_path}/none.dat does not exist" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("job", "list"), ("host", "list"), ("vm", "list"), ("site", "add", "cern"), ("dead", "list"), ("status",)],
)
def test_without_a_data_directory_the_system_cannot_be_reached(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = volcloud(*arguments, "--data", str(tmp_path / "nowhere"))

    assert result.exit_code == 3
    assert str(tmp_path / "nowhere") in result.stderr
    assert "Next:" in result.stderr


@pytest.mark.parametrize(
    ("holder", "status"), [("site-lyon", 2), ("console-operator", 2), ("site-lyon2", 3), (None, 3)]
)
def test_the_login_of_a_site_goes_over_nobody_elses(tmp_path: Path, holder: str | None, status: int) -> None:
    path = tmp_path / "lyon.json"
    if holder is None:
        path.touch()
    else:
        write_address(path, Address(endpoints=(Endpoint("127.0.0.1", 1),), user=holder, password="x"))
    before = path.read_bytes()

    result = volcloud("site", "add", "lyon2", "-o", str(path), "--data", str(tmp_path / "nowhere"))

    assert (result.exit_code, path.read_bytes()) == (status, before)
    is_refused = f"--output = '{path}': it holds the login of {holder}, and one of site-lyon2" in result.stderr
    assert is_refused == (status == 2)
    assert ("Next: name another file" in result.stderr) == is_refused


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "nothing of lyon has failed and waits for its next try"),
        (1, "1 thing that had failed is tried again now"),
        (7, "7 things that had failed are tried again now"),
    ],
)
def test_how_much_of_a_source_is_tried_again_is_said(monkeypatch: pytest.MonkeyPatch, count: int, said: str) -> None:
    row = SourceRow(source="lyon", kind="spool", seen_ms=1, retried=count)
    client = nullcontext(SimpleNamespace(sources=SimpleNamespace(retry=lambda name: row)))
    monkeypatch.setattr(Invocation, "client", lambda _: client)

    assert volcloud("source", "retry", "lyon").stdout.splitlines()[-1] == said
    assert json.loads(volcloud("source", "retry", "lyon", "--json").stdout).get("retried", 0) == count


FEED = Path(__file__).parents[2] / "examples" / "feed_kombu.py"
NOWHERE = '{"user": "site-x", "password": "x", "vhost": "v", "endpoints": [{"host": "127.0.0.1", "port": 1}]}'


@pytest.mark.parametrize(
    ("arguments", "login", "status", "said"),
    [
        ([], NOWHERE, 2, "usage: python feed_kombu.py JOB-ID EXECUTABLE"),
        (["j"], NOWHERE, 2, "usage: python feed_kombu.py JOB-ID EXECUTABLE"),
        (["j", "/bin/true"], "", 2, "standard input is no login"),
        (["j", "/bin/true"], "[]", 2, "standard input is no login"),
        (["j", "/bin/true"], '{"user": "site-x", "endpoints": []}', 2, "standard input is no login"),
        (["j", "/bin/true"], NOWHERE, 3, "the broker cannot be used with the login of site-x: "),
    ],
)
def test_the_example_of_a_site_says_in_one_sentence_what_is_wrong(
    arguments: list[str], login: str, status: int, said: str
) -> None:
    command = [sys.executable, str(FEED), *arguments]
    done = subprocess.run(command, input=login, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert done.stderr.startswith(said)


def test_vm_run_ends_with_125_when_we_failed_and_not_the_command(tmp_path: Path) -> None:
    result = volcloud("vm", "run", "--data", str(tmp_path / "nowhere"), "atlas-1", "--", "true")

    assert result.exit_code == 125


def test_down_where_no_system_is_says_so(tmp_path: Path) -> None:
    result = volcloud("down", "--data", str(tmp_path))

    assert result.exit_code == 1
    assert f"{tmp_path} holds no system" in result.stderr


def test_status_speaks_json_also_when_everything_is_down(tmp_path: Path) -> None:
    result = volcloud("status", "--json", "--data", str(tmp_path))

    assert result.exit_code == 3
    assert json.loads(result.stdout)["processes"] == []


def test_a_broker_that_is_down_is_named_with_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volcloud.client.session.PATIENCE_S", 0.3)
    address = Address(endpoints=(Endpoint("127.0.0.1", 1),), user="console-operator", password="x")
    write_address(credential_path(tmp_path), address)

    result = volcloud("job", "list", "--data", str(tmp_path))

    assert result.exit_code == 3
    assert "the broker at 127.0.0.1:1 does not answer" in result.stderr


def test_a_damaged_credential_is_named(tmp_path: Path) -> None:
    credential_path(tmp_path).parent.mkdir()
    credential_path(tmp_path).write_text("{")

    result = volcloud("job", "list", "--data", str(tmp_path))

    assert result.exit_code == 3
    assert str(credential_path(tmp_path)) in result.stderr


def test_the_data_directory_is_the_options_then_the_variables_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/home/someone/share")
    monkeypatch.delenv("VOLCLOUD_DATA", raising=False)
    assert data_directory() == Path("/home/someone/share/volcloud")

    monkeypatch.setenv("VOLCLOUD_DATA", "/srv/cloud")
    assert data_directory() == Path("/srv/cloud")
    assert data_directory("/elsewhere") == Path("/elsewhere")


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [
        (CommandFailed("x"), 1),
        (BadInput("x"), 2),
        (Unreachable("x"), 3),
        (RemoteError(ErrorCode.CONFLICT, "x", "y"), 1),
        (CallTimeout("x", accepted=True), 1),
        (CallTimeout("x"), 3),
        (Unroutable("x"), 1),
        (Disconnected("x"), 3),
        (LoginRefused("x"), 3),
    ],
)
def test_every_error_has_its_exit_status(error: Exception, exit_status: int) -> None:
    assert judge(error).exit_status == exit_status  # type: ignore[arg-type]
