"""Who may have an input of the store, by whom the broker vouches for: told without bytes, and checked before any."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from schemas.envelope import Done, Failed, Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, InputFile
from schemas.inputs import InputRight
from tests.broker.polling import until
from tests.unit.test_transfer_server import Room

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HOST, VM, OTHER = "host-a", "vm-a-0123456789", "vm-b-0123456789"
FILE = InputFile(sha256=SHA256)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path)
    made.store.put_bytes(CONTENT, FILE)
    made.held = {(VM, SHA256)}
    return made


async def told(room: Room, sender: str, message: Message) -> tuple[str, Message]:
    """Give the first thing that a sender is told."""
    room.open(sender, message)
    await until(lambda: room.said(Message))
    await room.transfer_server.close()
    key, answer = room.said(Message)[0]
    return key, answer


async def test_a_host_hears_that_its_vm_may_have_what_it_holds(room: Room) -> None:
    ask = InputRight(vm=VM, sha256=SHA256)

    key, answer = await told(room, HOST, ask)

    assert isinstance(answer, Done)
    assert (key, answer.call) == ("host.a.files", ask.id)


@pytest.mark.parametrize(
    ("vm", "sha256", "why"),
    [(VM, "0" * 64, "holds no attempt"), (OTHER, SHA256, "no VM of its own"), ("", SHA256, "no VM of its own")],
)
async def test_a_host_hears_no_for_what_its_vm_does_not_hold_and_for_others_vms(
    room: Room, vm: str, sha256: str, why: str
) -> None:
    room.held = {(VM, SHA256), (OTHER, SHA256)}

    _, answer = await told(room, HOST, InputRight(vm=vm, sha256=sha256))

    assert isinstance(answer, Failed)
    assert (answer.code, why in answer.message) == (ErrorCode.FORBIDDEN, True)


async def test_a_vm_may_not_ask_as_a_host_does(room: Room) -> None:
    post = room.open(VM, InputRight(vm=VM, sha256=SHA256))
    await until(lambda: post.acked)

    assert (room.said(Message), room.dead_letters_sent()) == ([], 1)
    await room.transfer_server.close()


@pytest.mark.parametrize(("sender", "vm"), [(VM, ""), (HOST, VM), ("console-ada", "")])
async def test_who_may_have_it_is_offered_it(room: Room, sender: str, vm: str) -> None:
    reply = "abc" if sender == "console-ada" else ""

    _, answer = await told(room, sender, FileGet(file=FILE, vm=vm, reply=reply))

    assert isinstance(answer, FileOffer)
    assert answer.sha256 == SHA256


@pytest.mark.parametrize(
    ("sender", "vm"), [(OTHER, ""), (OTHER, VM), (HOST, OTHER), (HOST, ""), ("host-b", VM), ("site-x", VM)]
)
async def test_who_knows_a_digest_alone_is_refused(room: Room, sender: str, vm: str) -> None:
    """A VM that names another one in its request is taken for itself."""
    room.held = {(VM, SHA256)}

    _, answer = await told(room, sender, FileGet(file=FILE, vm=vm))

    assert isinstance(answer, FileAbort)
    assert answer.code == ErrorCode.FORBIDDEN
