"""A command is loaded once it is named, and nothing that it does not need: a person waits for that each time."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from volcloud.command_line import cli
from volcloud.later import LaterGroup, commands_of

#: What takes long to load, and what a question to the centre has no use for.
HEAVY = ("sqlalchemy", "fastapi", "uvicorn", "prometheus_client", "volcloud.xmlrpc", "volcloud.centre.plan")


@pytest.mark.parametrize("words", [["job", "list"], ["vm", "list"], ["vm", "run"], ["dead", "list"]], ids=" ".join)
def test_a_command_loads_nothing_that_it_does_not_need(words: list[str]) -> None:
    code = (
        "import sys\nfrom volcloud.command_line import cli\n"
        f"try:\n    cli.main([*{words!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines()[-1] == "[]", said.stdout


def test_help_names_all_and_what_there_is_not_is_told() -> None:
    told = CliRunner().invoke(cli, ["--help"])
    for name in ("broker", "job", "up", "vm", "xmlrpc"):
        assert f"\n  {name} " in told.stdout

    assert "No such command 'jobs'" in CliRunner().invoke(cli, ["jobs"]).output


def test_each_command_is_under_its_own_name() -> None:
    def look(group: click.Group) -> None:
        for name, command in commands_of(group).items():
            assert command.name == name
            if isinstance(command, click.Group):
                look(command)

    look(cli)


def test_one_that_is_loaded_is_what_its_module_calls_so() -> None:
    group = LaterGroup("some", later={"vm": "volcloud.commands.vms"})

    assert commands_of(group)["vm"] is commands_of(cli)["vm"]
    assert group.get_command(click.Context(group), "none") is None
