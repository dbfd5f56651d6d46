"""Files that have no room beside others on their way: guests wait as long as it lasts, and lose no job by it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.errors import TransferFailed
from schemas.description import Output
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, InputFile
from schemas.jobs import Outcome, OutputEntry
from tests.broker.polling import until
from tests.unit.guests import Guest
from tests.unit.test_transfer_server import Room

BIG = ("sh", "-c", "head -c 100000 /dev/zero > big")


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Guest]:
    """A guest that tries again only for a store that is full or away."""
    made = Guest(tmp_path, store_patience_s=0.0)
    yield made
    made.close()


@pytest.mark.parametrize("refusal", [ErrorCode.NO_ROOM, ErrorCode.STORE, ErrorCode.TIMEOUT])
async def test_an_output_that_waits_for_room_or_for_the_store_is_not_lost_however_long_it_takes(
    impatient: Guest, refusal: ErrorCode
) -> None:
    impatient.full_for, impatient.refusal = 2, refusal
    attempt = impatient.attempt(*BIG, outputs=[Output(name="big")])

    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.holding().trouble.startswith("stage-out of 'big'"))
    completion = await running

    assert (completion.outcome, completion.cause) == (Outcome.DONE, "")
    assert attempt.holding().trouble == ""
    assert len(impatient.stored["big"]) == 100_000


async def test_an_output_that_the_store_refuses_for_what_it_is_is_given_up(impatient: Guest) -> None:
    impatient.full_for, impatient.refusal = 1, ErrorCode.CONFLICT

    completion = await impatient.run(*BIG, outputs=[Output(name="big")])

    assert (completion.outcome, "stage-out of 'big'" in completion.cause) == (Outcome.LOST, True)


async def test_an_input_that_waits_for_others_on_their_way_is_asked_for_again(impatient: Guest) -> None:
    impatient.full_for, impatient.refusal, impatient.gives_while_full = 2, ErrorCode.NO_ROOM, False
    attempt = impatient.attempt("cat", "in", inputs=[impatient.input("in", b"content")])

    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.holding().trouble.startswith("stage-in of 'in'"))
    completion = await running

    assert (completion.outcome, completion.cause) == (Outcome.DONE, "")
    assert attempt.holding().trouble == ""
    assert len(impatient.fetches) == 3


async def test_a_stop_is_heard_while_an_input_waits_for_room(impatient: Guest) -> None:
    impatient.full_for, impatient.refusal, impatient.gives_while_full = 1 << 30, ErrorCode.NO_ROOM, False
    attempt = impatient.attempt("cat", "in", inputs=[impatient.input("in", b"content")])
    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.trouble != "")

    attempt.stop("enough")
    async with asyncio.timeout(10):
        completion = await running

    assert (completion.outcome, completion.cause) == (Outcome.CANCELLED, "enough")
    assert attempt.trouble == ""


async def test_a_transfer_that_breaks_off_after_a_long_try_is_tried_again(tmp_path: Path) -> None:
    """Patience once ran from the first try: a file that took an hour was lost with the first word of trouble."""
    guest, tries = Guest(tmp_path, store_patience_s=1.0), list[str]()

    async def slow(path: Path, name: str) -> OutputEntry:
        tries.append(name)
        if len(tries) == 1:
            await asyncio.sleep(1.1)
            raise TransferFailed(ErrorCode.CONFLICT, "was changed while it came; send it again")
        return await Guest.store(guest, path, name)

    guest.store = slow  # type: ignore[method-assign]
    completion = await guest.run(*BIG, outputs=[Output(name="big")])
    guest.close()

    assert (completion.outcome, tries) == (Outcome.DONE, ["big", "big"])


async def test_a_second_input_of_a_store_that_is_elsewhere_is_told_to_wait_and_comes_when_the_first_is_there(
    tmp_path: Path,
) -> None:
    room = Room(tmp_path, most_staged_bytes=8 << 20)
    room.store.is_local = False  # copied to the staging directory first, as from any store that is elsewhere
    contents = [bytes([number]) * (2 << 20) for number in range(2)]
    files = [InputFile(sha256=hashlib.sha256(content).hexdigest()) for content in contents]
    for content, file in zip(contents, files, strict=True):
        room.store.put_bytes(content, file)

    room.open("vm-a", first := FileGet(file=files[0]))
    await until(lambda: room.said(FileOffer) != [])
    room.open("vm-a", FileGet(file=files[1]))
    await until(lambda: room.said(FileAbort) != [])
    room.abort("vm-a", FileOffer(id=first.id, file=files[0], size=2 << 20, sha256=files[0].sha256))
    await until(lambda: not list(room.staging.iterdir()))
    room.open("vm-a", FileGet(file=files[1]))
    await until(lambda: any(getattr(offer, "file", None) == files[1] for _, offer in room.said(FileOffer)))

    ((key, refusal),) = room.said(FileAbort)
    assert isinstance(refusal, FileAbort)
    assert (key, refusal.code) == ("vm.a.files", ErrorCode.NO_ROOM)
    await room.transfer_server.close()
