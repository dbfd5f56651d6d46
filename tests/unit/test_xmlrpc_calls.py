"""The table of XML-RPC calls: the original's names, their arguments, and faults for whatever else is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import Fault, dumps, loads

import pytest

from broker.errors import CallTimeout, Disconnected, RemoteError, Unroutable
from schemas.errors import ErrorCode
from schemas.ledger import RegistryRow
from schemas.vms import VmAct, VmState, VmStatus
from tests.broker.polling import until
from volcloud.client import AsyncClient
from volcloud.errors import BadInput, CommandFailed, NoSuchVm, Unreachable
from volcloud.xmlrpc.calls import CALLS
from volcloud.xmlrpc.command_book import MOST_COMMANDS, BookedCommand, CommandBook
from volcloud.xmlrpc.door import Door
from volcloud.xmlrpc.faults import MEANINGS, FaultCode, fault_of
from volcloud.xmlrpc.file_calls import _local, _target
from volcloud.xmlrpc.method import Generation, Room
from volcloud.xmlrpc.names import STATES, named, word_of

#: Every call that scripts of either controller may have in them, as the original spelt it.
FIRST = {
    "listRegisteredVMs", "ping", "runCmd", "listFinishedCmds", "getCmdResults", "getCmdDetails", "cpFileToVM",
    "cpFileFromVM", "help", "start", "powerOff", "pause", "unpause", "saveState", "getState", "saveSnapshot",
    "restoreSnapshot", "listAvailableVMs", "listRunningVMs", "getNamesToIdsMapping", "getIdsToNamesMapping",
    "getPerformanceData", "createVM",
}  # fmt: skip
SECOND = {
    "version", "createVM", "removeVM", "start", "shutdown", "reset", "powerOff", "pause", "resume", "states",
    "getState", "saveState", "discardState", "takeSnapshot", "restoreSnapshot", "deleteSnapshot", "listVMs",
    "listVMsWithState",
    "listRunningVMs", "listSnapshots", "getNamesToIdsMapping", "getIdsToNamesMapping", "getStats", "ping", "runCmd",
    "listFinishedCmds", "getCmdResults", "cpFileToVM", "cpFileFromVM", "help",
}  # fmt: skip
#: No call of these tests comes as far as the system.
NO_ROOM = Room(cast(AsyncClient, None), cast(CommandBook, None), Path("/nowhere"))


def status(state: VmState = VmState.RUNNING, *, vm: str = "vm-1", name: str = "a", act: str = "") -> VmStatus:
    at_work = VmAct(verb=act, for_s=1.0) if act else None
    return VmStatus(
        vm=vm,
        name=name,
        state=state,
        generation=1,
        hypervisor="fake",
        cpus=1,
        memory_mib=64,
        disk_mib=1024,
        act=at_work,
    )


async def ask(name: str, *arguments: Any, door: Door | None = None) -> Any:
    answer = await (door or Door(NO_ROOM)).answer(dumps(arguments, name, allow_none=True).encode())
    return loads(answer)[0][0]


async def refused(name: str, *arguments: Any, door: Door | None = None) -> tuple[int, str]:
    with pytest.raises(Fault) as error:
        await ask(name, *arguments, door=door)
    return error.value.faultCode, error.value.faultString


def test_every_call_of_both_controllers_is_there_and_no_other() -> None:
    of_first = {name for name, one in CALLS.items() if one.generation is not Generation.SECOND}
    of_second = {name for name, one in CALLS.items() if one.generation is not Generation.FIRST}

    assert of_first == FIRST
    assert of_second == SECOND


@pytest.mark.parametrize("call", CALLS.values(), ids=str)
def test_every_call_says_what_it_does(call: Any) -> None:
    assert call.text.endswith((".", "]"))
    assert len(call.text) > 20


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(FaultCode)


@pytest.mark.parametrize("name", ["nope", "__init__", "system.listMethods", "help_of", "client.close", "HELP", "does"])
async def test_nothing_is_called_that_is_not_in_the_table(name: str) -> None:
    assert (await refused(name))[0] == FaultCode.NO_SUCH_CALL


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ping", (), "ping(vm, timeoutSecs=5.0) takes 1 to 2 arguments and has 0"),
        ("getState", ("a", "b"), "getState(vm) takes 1 arguments and has 2"),
        ("ping", (5,), "ping: vm: Expected `str`, got `int`"),
        ("ping", ("a", 0), "ping: timeoutSecs: Expected `float` > 0.0"),
        ("ping", ("a", 1e9), "ping: timeoutSecs: Expected `float` <= 60.0"),
        ("ping", ("a", None), "ping: timeoutSecs"),
        ("start", ("a", "yes"), "start: guiMode: Expected `bool`, got `str`"),
        ("runCmd", ("a", "ls", {"x": 1}), "runCmd: args"),
        ("runCmd", ("a", "ls", [], {"A": 1}), "runCmd: env"),
        ("pause", ("*",), "vm = '*': this call takes one VM"),
        ("removeVM", ("a?",), "vm = 'a?': this call takes one VM"),
        ("cpFileToVM", ("[a]", "/x"), "vm = '[a]': this call takes one VM"),
    ],
)
async def test_a_wrong_argument_is_named_before_anything_is_done(name: str, arguments: Any, said: str) -> None:
    code, text = await refused(name, *arguments)

    assert (code, said in text) == (FaultCode.BAD_ARGUMENT, True), text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("start", ("a", True)), ("createVM", ("/vms/a.vbox",)), ("createVM", ("a", "/images/a.vmdk"))],
)
async def test_what_the_original_did_and_we_cannot_is_told_so(name: str, arguments: Any) -> None:
    code, text = await refused(name, *arguments)

    assert code == FaultCode.UNSUPPORTED
    assert "; " in text


async def test_help_tells_of_one_call_and_of_all() -> None:
    assert (await ask("help", "reset")) == "reset(vm):\nReboot a VM without asking the guest."
    everything = await ask("help")
    assert [one.name for one in CALLS.values() if f"{one}:\n" not in everything] == []
    assert (await refused("help", "nope"))[0] == FaultCode.NO_SUCH_CALL


async def test_states_are_the_originals() -> None:
    assert tuple(await ask("states")) == STATES
    assert {word_of(status(state)) for state in VmState} | {"Discarding"} == set(STATES)
    assert word_of(status(VmState.SAVED, act="discard")) == "Discarding"


def test_vms_of_one_name_are_known_by_their_ids() -> None:
    rows = [
        RegistryRow(host="h", seen_ms=0, status=status(vm=vm, name=name))
        for vm, name in [("vm-1", "a"), ("vm-2", "b"), ("vm-3", "b")]
    ]

    assert list(named(rows)) == ["a", "vm-2", "vm-3"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSuchVm("no"), FaultCode.NO_SUCH_VM),
        (BadInput("no"), FaultCode.BAD_ARGUMENT),
        (CommandFailed("no"), FaultCode.NOT_DONE),
        (Unreachable("no"), FaultCode.UNREACHABLE),
        (Disconnected("no"), FaultCode.UNREACHABLE),
        (Unroutable("no"), FaultCode.NO_SUCH_VM),
        (CallTimeout("no"), FaultCode.TIMEOUT),
        (RemoteError(ErrorCode.ILLEGAL_STATE, "no"), FaultCode.WRONG_STATE),
        (RemoteError(ErrorCode.UNSUPPORTED, "no"), FaultCode.UNSUPPORTED),
        (RemoteError(ErrorCode.HYPERVISOR, "no"), FaultCode.NOT_DONE),
        (OSError(28, "No space left on device"), FaultCode.NOT_DONE),
    ],
)
def test_an_error_has_its_code(error: Exception, code: FaultCode) -> None:
    assert fault_of(error).faultCode == code


async def test_calls_at_once_are_bounded_and_a_call_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def endless(room: Room) -> bool:
        """Hang."""
        begun.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setitem(CALLS, "version", CALLS["version"]._replace(does=endless))
    door = Door(NO_ROOM, most_calls=1, call_s=0.5)
    first = asyncio.ensure_future(refused("version", door=door))
    await until(begun.is_set)

    assert (await refused("states", door=door))[0] == FaultCode.BUSY
    assert (await first)[0] == FaultCode.TIMEOUT
    assert await ask("states", door=door)


def test_paths_are_below_where_the_door_was_started(tmp_path: Path) -> None:
    room = replace(NO_ROOM, directory=tmp_path)
    (tmp_path / "there").mkdir()

    assert _local(room, "a/b") == tmp_path / "a/b"
    assert _local(room, "/etc/x") == Path("/etc/x")
    assert _target(room, "there", "name") == tmp_path / "there/name"
    assert _target(room, "not-there", "name") == tmp_path / "not-there"


@pytest.mark.parametrize("path", ["/etc/hosts", "../x", "out/x", "a/../../x", "/"])
def test_no_path_leads_out_of_the_directory_of_files(tmp_path: Path, path: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "out").symlink_to("/tmp")
    room = replace(NO_ROOM, directory=files, files=files)

    with pytest.raises(Fault, match="leads out of"):
        _local(room, path)
    assert _local(room, str(files / "in")) == files / "in"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_told(path: str) -> None:
    with pytest.raises(Fault, match="is no path of a file"):
        _local(NO_ROOM, path)


def test_the_book_remembers_commands_across_starts(tmp_path: Path) -> None:
    path = tmp_path / "xmlrpc" / "commands.sqlite"
    book = CommandBook(path)
    for number in range(3):
        book.add(BookedCommand(f"c{number}", "vm-1", {"cmd": "ls"}))
    book.note_ends(["c1"])
    book.close()
    book.close()
    book = CommandBook(path)

    assert book.with_running() == {"vm-1": ["c0", "c1", "c2"]}
    assert book.ended() == ["c1"]
    assert book.find("c2") == BookedCommand("c2", "vm-1", {"cmd": "ls"})
    book.forget(["c2"])
    assert book.find("c2") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_book_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_COMMANDS == 10_000
    monkeypatch.setattr("volcloud.xmlrpc.command_book.MOST_COMMANDS", 3)
    book = CommandBook(tmp_path / "xmlrpc" / "commands.sqlite")
    for number in range(10):
        book.add(BookedCommand(f"c{number}", "vm-1", {}))

    assert book.with_running() == {"vm-1": ["c7", "c8", "c9"]}
    book.note_ends(["c7", "c8", "c9"])
    assert book.with_running() == {}


def test_a_book_that_is_damaged_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "commands.sqlite"
    path.write_bytes(b"no database" * 100)

    with pytest.raises(CommandFailed, match=r"commands\.sqlite: file is not a database"):
        CommandBook(path)
