"""``volcloud`` where no broker is needed: help, usage, bad files, and what it says when nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from broker.address import Address, write_address
from broker.errors import CallTimeout, Disconnected, LoginRefused, RemoteError, Unroutable
from schemas.endpoints import Endpoint
from schemas.errors import ErrorCode
from volcloud.command_line import cli
from volcloud.data_directory import credential_path, data_directory
from volcloud.errors import BadInput, CommandFailed, Unreachable
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
