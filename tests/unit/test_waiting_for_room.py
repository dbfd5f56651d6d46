"""Files that have no room beside others on their way: guests wait as long as it lasts, and lose no job by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.errors import TransferFailed
from schemas.description import Output
from schemas.errors import ErrorCode
from schemas.jobs import Outcome, OutputEntry
from tests.broker.polling import until
from tests.unit.guests import Guest

BIG = ("sh", "-c", "head -c 100000 /dev/zero > big")


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Guest]:
    """A guest that waits for no store that is full or away."""
    made = Guest(tmp_path, store_patience_s=0.0)
    yield made
    made.close()


async def test_an_output_that_waits_for_others_on_their_way_is_not_lost_however_long_they_take(
    impatient: Guest,
) -> None:
    impatient.full_for, impatient.refusal = 2, ErrorCode.NO_ROOM
    attempt = impatient.attempt(*BIG, outputs=[Output(name="big")])

    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.holding().trouble.startswith("stage-out of 'big'"))
    completion = await running

    assert (completion.outcome, completion.cause) == (Outcome.DONE, "")
    assert attempt.holding().trouble == ""
    assert len(impatient.stored["big"]) == 100_000


async def test_a_store_that_stays_full_is_still_given_up(impatient: Guest) -> None:
    impatient.full_for = 1

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
            raise TransferFailed(ErrorCode.TIMEOUT, "the receiver is silent")
        return await Guest.store(guest, path, name)

    guest.store = slow  # type: ignore[method-assign]
    completion = await guest.run(*BIG, outputs=[Output(name="big")])
    guest.close()

    assert (completion.outcome, tries) == (Outcome.DONE, ["big", "big"])
