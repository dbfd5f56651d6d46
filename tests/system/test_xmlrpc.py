"""The old front door on a real system: scripts written for the original VM controller, and who is not let in."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ProtocolError, ServerProxy

import pytest

from tests.system.door import OldDoor, open_door
from tests.system.running import System, running, until
from volcloud.errors import NoSuchVm
from volcloud.xmlrpc.faults import FaultCode


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the door is started, and a script's files are."""
    return tmp_path_factory.mktemp("script")


@pytest.fixture(scope="module")
def door(system: System, place: Path) -> Iterator[OldDoor]:
    with open_door(system.directory, cwd=place) as made:
        until(lambda: len(answer(made.proxy().listRegisteredVMs)) == 2, "both agents are ready")
        yield made


@pytest.fixture
def proxy(door: OldDoor) -> Iterator[ServerProxy]:
    with door.proxy() as made:
        yield made


def answer(call: Any, *arguments: Any) -> Any:
    """Have a call answered; its result has the type that the original's documentation says."""
    return call(*arguments)


def refused(call: Any, *arguments: Any) -> Fault:
    with pytest.raises(Fault) as error:
        call(*arguments)
    return error.value


def test_a_script_lists_pings_and_copies(proxy: ServerProxy, place: Path) -> None:
    names = answer(proxy.listRegisteredVMs)
    (place / "in.txt").write_text("to and fro\n")

    assert names == answer(proxy.listAvailableVMs) == answer(proxy.listVMs) == ["worker-1", "worker-2"]
    assert answer(proxy.listVMsWithState) == {"worker-1": "Running", "worker-2": "Running"}
    assert answer(proxy.ping, "worker-1") == "PONG from worker-1"
    assert answer(proxy.ping, "worker-*", 30) == ["PONG from worker-1", "PONG from worker-2"]
    assert answer(proxy.cpFileToVM, "worker-1", str(place / "in.txt"), "there.txt") == ["", "", 0]
    assert answer(proxy.cpFileFromVM, "worker-1", "there.txt", "back.txt") == ["", "", 0]
    assert (place / "back.txt").read_text() == "to and fro\n"


def test_a_transfer_that_fails_has_a_status_and_says_why(proxy: ServerProxy, place: Path) -> None:
    out, err, status = answer(proxy.cpFileFromVM, "worker-1", "not-there.txt", str(place / "none.txt"))

    assert (out, status) == ("", 1)
    assert "not-there.txt" in err
    assert not (place / "none.txt").exists()
    assert answer(proxy.cpFileToVM, "worker-1", "/not/there")[2] == 1


def test_ids_and_names_belong_together(proxy: ServerProxy) -> None:
    ids, names = answer(proxy.getNamesToIdsMapping), answer(proxy.getIdsToNamesMapping)

    assert {vm: name for name, vm in ids.items()} == names
    assert answer(proxy.getState, ids["worker-2"]) == "Running"


def test_every_call_finds_what_the_one_before_has_made(proxy: ServerProxy) -> None:
    assert answer(proxy.createVM, "made-1") == [True, "made-1"]
    assert answer(proxy.getState, "made-1") == "PoweredOff"
    assert answer(proxy.start, "made-1") is True
    assert "made-1" in answer(proxy.listRunningVMs)
    assert answer(proxy.pause, "made-1") is True
    assert answer(proxy.listVMsWithState)["made-1"] == answer(proxy.getState, "made-1") == "Paused"
    assert refused(proxy.ping, "made-1").faultCode == FaultCode.WRONG_STATE
    assert answer(proxy.unpause, "made-1") is True
    assert refused(proxy.removeVM, "made-1").faultCode == FaultCode.WRONG_STATE
    assert answer(proxy.powerOff, "made-1") is True
    assert answer(proxy.removeVM, "made-1") == [True, "made-1"]
    assert "made-1" not in answer(proxy.listVMs)


def results(proxy: ServerProxy, command: str) -> dict[str, Any]:
    """Poll as scripts do, then read."""
    until(lambda: command in answer(proxy.listFinishedCmds), f"{command} has ended")
    found: dict[str, Any] = answer(proxy.getCmdResults, command)
    return found


def test_a_command_runs_and_its_results_may_be_read_again(proxy: ServerProxy) -> None:
    command = answer(proxy.runCmd, "worker-1", "cat", ["/proc/uptime"])

    first = results(proxy, command)

    assert (first["err"], first["finished"], first["exitCodeOrSignal"]) == ("", True, 0)
    assert float(first["out"].split()[0]) > 0
    assert set(first["resources"]) >= {"ru_utime", "ru_stime", "ru_maxrss", "ru_nivcsw"}
    assert answer(proxy.getCmdResults, command) == first
    assert command in answer(proxy.listFinishedCmds)
    details = json.loads(answer(proxy.getCmdDetails, command))
    assert {**details, "timestamp": 0} == {
        "timestamp": 0,
        "to": "worker-1",
        "cmd": "cat",
        "args": ["/proc/uptime"],
        "env": {},
        "path": None,
        "fileForStdin": "",
    }


def test_a_command_has_the_environment_directory_and_input_that_it_is_given(proxy: ServerProxy, place: Path) -> None:
    (place / "input.txt").write_text("of a file\n")
    answer(proxy.cpFileToVM, "worker-1", str(place / "input.txt"))
    script = 'echo "$WHAT $1 $(pwd)"; cat; echo told >&2; exit 3'

    there = results(proxy, answer(proxy.runCmd, "worker-1", "/bin/pwd"))["out"].strip()
    given = ["-c", script, "sh", 7]
    command = answer(proxy.runCmd, "worker-1", "/bin/sh", given, {"WHAT": "a; b"}, "/", f"{there}/input.txt")
    found = results(proxy, command)

    assert (found["out"], found["err"]) == ("a; b 7 /\nof a file\n", "told\n")
    assert (found["finished"], found["exitCodeOrSignal"]) == (True, 3)


def test_a_command_is_called_as_the_wrapper_of_the_original_did(proxy: ServerProxy) -> None:
    found = results(proxy, answer(proxy.runCmd, "worker-1", "echo", ["1 2"], "{}", "None", ""))

    assert (found["out"], found["exitCodeOrSignal"]) == ("1 2\n", 0)


def test_a_death_by_a_signal_and_output_that_is_no_text_are_told(proxy: ServerProxy) -> None:
    found = results(proxy, answer(proxy.runCmd, "worker-1", "sh", ["-c", "printf '\\377\\000'; kill -9 $$"]))

    assert (found["finished"], found["exitCodeOrSignal"], found["out"]) == (False, 9, b"\xff\x00")


def test_a_pattern_of_vms_runs_a_command_in_each(proxy: ServerProxy) -> None:
    commands = answer(proxy.runCmd, "worker-*", "true")

    assert len(set(commands)) == 2
    assert [results(proxy, command)["exitCodeOrSignal"] for command in commands] == [0, 0]


def test_a_command_that_runs_has_no_results_yet(system: System, proxy: ServerProxy) -> None:
    command = answer(proxy.runCmd, "worker-2", "sh", ["-c", "until [ -e gate ]; do sleep 0.1; done; echo open"])

    assert answer(proxy.getCmdResults, command) == ""
    assert command not in answer(proxy.listFinishedCmds)
    answer(proxy.runCmd, "worker-2", "touch", ["gate"])
    assert results(proxy, command)["out"] == "open\n"
    with open_door(system.directory) as second, second.proxy() as other:
        assert answer(other.getCmdResults, command)["out"] == "open\n"


def test_a_command_that_cannot_be_started_or_is_not_known_is_a_fault(proxy: ServerProxy) -> None:
    assert "no-such-program" in refused(proxy.runCmd, "worker-1", "no-such-program").faultString
    assert refused(proxy.runCmd, "worker-1", "").faultCode == FaultCode.BAD_ARGUMENT
    assert refused(proxy.getCmdResults, "nope").faultCode == FaultCode.NO_SUCH_COMMAND
    assert refused(proxy.getCmdDetails, "nope").faultCode == FaultCode.NO_SUCH_COMMAND


def test_the_client_asks_agents_by_themselves(system: System) -> None:
    with system.client() as client:
        seen = client.agents.look("worker-1")

        assert 0 < client.agents.ping("worker-1", timeout_s=30) < 30
        assert (seen.name, seen.state) == ("worker-1", "running")
        with pytest.raises(NoSuchVm):
            client.agents.look("nobody")


def test_what_a_driver_cannot_is_a_fault_that_says_so(proxy: ServerProxy) -> None:
    told = refused(proxy.saveState, "worker-1")

    assert told.faultCode == FaultCode.UNSUPPORTED
    assert "the process driver cannot" in told.faultString


def test_a_name_that_nobody_has_is_told_with_those_that_there_are(proxy: ServerProxy) -> None:
    told = refused(proxy.ping, "nobody")

    assert told.faultCode == FaultCode.NO_SUCH_VM
    assert "worker-1, worker-2" in told.faultString


def test_measurements_have_the_collectors_shape(proxy: ServerProxy) -> None:
    rows = answer(proxy.getPerformanceData, "worker-1")

    assert all(row["object"] == "worker-1" and row["values"] for row in rows)
    assert next(row["values"][0] for row in rows if row["name"] == "CPU/Time") > 0
    assert {row["name"] for row in answer(proxy.getStats, "worker-1", "RAM/*")} == {
        row["name"] for row in rows if row["name"].startswith("RAM/")
    }


@pytest.mark.parametrize("token", ["wrong", "t" * 43])
def test_without_the_token_nothing_is_done(door: OldDoor, proxy: ServerProxy, token: str) -> None:
    with pytest.raises(ProtocolError) as error, door.proxy(token) as stranger:
        stranger.createVM("evil-1")

    assert error.value.errcode == 401
    assert "evil-1" not in answer(proxy.listVMs)


def test_the_token_is_the_users_alone_and_stays(system: System, door: OldDoor) -> None:
    token = door.token

    with open_door(system.directory) as second:
        assert second.token == token
        with second.proxy() as proxy:
            assert len(answer(proxy.listVMs)) == 2
    assert stat.S_IMODE(door.token_file.stat().st_mode) == 0o600
    assert token not in system.said()


def test_files_may_be_kept_to_one_directory(system: System, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("in\n")

    with open_door(system.directory, "--files", str(tmp_path), cwd=tmp_path) as made, made.proxy() as proxy:
        until(lambda: "worker-1" in answer(proxy.listRegisteredVMs), "its agent is ready")
        assert answer(proxy.cpFileToVM, "worker-1", "in.txt") == ["", "", 0]
        assert refused(proxy.cpFileToVM, "worker-1", "/etc/hosts").faultCode == FaultCode.FORBIDDEN
        assert refused(proxy.cpFileFromVM, "worker-1", "in.txt", "../out.txt").faultCode == FaultCode.FORBIDDEN


def door_that_fails(*arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "volcloud.main", "xmlrpc", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    return done.returncode, json.loads(done.stderr)["error"]


def test_a_port_that_is_taken_is_told(system: System, door: OldDoor) -> None:
    port = door.url.rpartition(":")[2].partition("/")[0]

    status, told = door_that_fails("--data", str(system.directory), "--port", port)

    assert (status, told["message"]) == (1, f"port {port} of 127.0.0.1 is taken")
    assert told["next_step"] == "choose another with --port"


def test_where_no_system_is_there_is_no_door(tmp_path: Path) -> None:
    status, told = door_that_fails("--data", str(tmp_path / "none"), "--port", "0")

    assert status == 3
    assert "no data directory" in told["message"]
    status, told = door_that_fails("--data", str(tmp_path), "--port", "0")
    assert status == 3
    assert list(tmp_path.iterdir()) == []
