"""Looking into VMs from outside: what they use of their hosts, their screens, what they print. They do not notice."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import Struct

from broker.errors import BrokerError, OutputLost
from schemas.ledger import RegistryRow
from schemas.looks import (
    MOST_LOG_LINES,
    MOST_OF_A_SCREEN,
    LogPiece,
    ScreenPart,
    ScreenReply,
    VmCounters,
    VmLog,
    VmLogReply,
    VmScreenshot,
    VmStats,
    VmStatsReply,
)
from volcloud.client.vm_part import AsyncVmPart
from volcloud.errors import BadInput, VolcloudError

#: How long a host that lives may take to answer a question, and to send a picture whole, seconds.
LOOK_S, SCREEN_S = 9.0, 45.0
#: VMs that are asked at a time.
MOST_AT_ONCE = 16
#: How long ``log_after`` waits for something new, and between two questions, seconds.
LOG_WAIT_S, LOG_EVERY_S = 10.0, 0.5


class VmUsage(Struct, frozen=True, kw_only=True):
    """What a VM uses of its host."""

    vm: str
    name: str
    host: str
    state: str
    #: What it has used since its process began; what nobody counts is None.
    counters: VmCounters
    #: Why some of it is not told.
    reason: str = ""


class LogPage(Struct, frozen=True, kw_only=True):
    """Some of what a guest has printed; ``log_after`` gives what follows it."""

    vm: str
    host: str
    #: Names the boot that it is of; empty: nothing was printed yet.
    boot: str
    #: As it was printed, with a line in it where something is left out.
    text: bytes
    #: How many bytes are left out in it or before it, as far as that is known.
    cut_bytes: int = 0
    #: The page before was of an earlier boot of the VM.
    is_new_boot: bool = False
    #: Where it ends in its boot, whether there is more of that already, and which boot came after.
    next_at: int
    more: bool = False
    newer: str = ""


class AsyncVmLooks(AsyncVmPart):
    """What ``AsyncVms`` has of looking into VMs."""

    async def stats(self, vm: str) -> VmUsage:
        """Say what a VM uses of its host. Two answers with the same ``counters.life`` may be subtracted."""
        return await self._usage(await self.get(vm))

    async def stats_of(self, rows: Sequence[RegistryRow]) -> Sequence[VmUsage | VolcloudError | BrokerError]:
        """As ``stats``, of several VMs of the registry at once; in place of one that cannot be asked, its error."""
        turns, _ = asyncio.Semaphore(MOST_AT_ONCE), self._session.caller  # raises where there is none

        async def ask(row: RegistryRow) -> VmUsage | VolcloudError | BrokerError:
            async with turns:
                try:
                    return await self._usage(row)
                except (VolcloudError, BrokerError) as error:
                    return error

        return await _all(ask(row) for row in rows)

    async def screenshot(self, vm: str) -> bytes:
        """Give what is on a VM's screen, as a PNG. Raises OutputLost when some of it was lost on the way."""
        row = await self.get(vm)
        picture = _Picture()
        question = VmScreenshot(vm=row.status.vm)
        async with aclosing(self._session.caller.stream(row.host, question, timeout_s=SCREEN_S)) as conversation:
            async for _, message in conversation:
                if isinstance(message, ScreenPart):
                    picture.take(message)
                elif isinstance(message, ScreenReply):
                    return picture.whole(message)
        raise OutputLost("the picture has no end; take another")

    async def log(self, vm: str, *, lines: int = 100) -> LogPage:
        """Give the last lines that a guest has printed on its serial console since its boot. Raises BadInput."""
        if not 0 <= lines <= MOST_LOG_LINES:
            raise BadInput(f"lines = {lines}: must be from 0 to {MOST_LOG_LINES:,}", "ask for fewer")
        row = await self.get(vm)
        answer = await self._log(row.host, VmLog(vm=row.status.vm, lines=lines))
        return _page(row.host, row.status.vm, answer, _began_at(answer.pieces, lines))

    async def log_after(self, page: LogPage, *, wait_s: float = LOG_WAIT_S) -> LogPage:
        """Give what a guest has printed after a page, also in a later boot; nothing else if it prints nothing for so
        long."""
        _, deadline = self._session.caller, time.monotonic() + wait_s  # raises where there is none
        while True:
            found = await self._after(page)
            if found.text or found.is_new_boot or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(LOG_EVERY_S)

    async def _after(self, page: LogPage) -> LogPage:
        if not page.boot:
            answer = await self._log(page.host, VmLog(vm=page.vm, lines=MOST_LOG_LINES))
            return _page(page.host, page.vm, answer, 0)
        boot, at = (page.newer, 0) if page.newer and not page.more else (page.boot, page.next_at)
        answer = await self._log(page.host, VmLog(vm=page.vm, boot=boot, at=at))
        is_other = answer.boot != page.boot
        return _page(page.host, page.vm, answer, 0 if is_other else at, is_new_boot=is_other)

    async def _log(self, host: str, question: VmLog) -> VmLogReply:
        return await self._session.caller.call(host, question, VmLogReply, timeout_s=LOOK_S)

    async def _usage(self, row: RegistryRow) -> VmUsage:
        question = VmStats(vm=row.status.vm)
        answer = await self._session.caller.call(row.host, question, VmStatsReply, timeout_s=LOOK_S)
        return VmUsage(
            vm=row.status.vm,
            name=row.status.name,
            host=row.host,
            state=str(answer.state),
            counters=answer.counters,
            reason=answer.reason,
        )


async def _all(work: Iterable[Coroutine[Any, Any, Any]]) -> Sequence[Any]:
    return await asyncio.gather(*work)


class _Picture:
    """A picture as its parts come: in their order, and no more of it than any picture may have."""

    def __init__(self) -> None:
        self._parts, self._data = 0, bytearray()

    def take(self, part: ScreenPart) -> None:
        """Take a part. Raises OutputLost when one before it is missing, or there is too much of it."""
        if part.number != self._parts or len(self._data) + len(part.data) > MOST_OF_A_SCREEN:
            raise OutputLost(f"part {part.number} of the picture came where part {self._parts} was due; take another")
        self._parts += 1
        self._data += part.data

    def whole(self, end: ScreenReply) -> bytes:
        """Give it when all of it has come. Raises OutputLost."""
        if len(self._data) != end.size or hashlib.sha256(self._data).hexdigest() != end.sha256:
            raise OutputLost(f"{len(self._data)} of {end.size} bytes of the picture came; take another")
        return bytes(self._data)


def _page(host: str, vm: str, answer: VmLogReply, at: int, *, is_new_boot: bool = False) -> LogPage:
    """Make a page of an answer; ``at`` is where it should begin."""
    text, cut = _joined(answer.pieces, at)
    return LogPage(
        vm=vm,
        host=host,
        boot=answer.boot,
        text=text,
        cut_bytes=cut,
        is_new_boot=is_new_boot,
        next_at=answer.next_at,
        more=answer.more,
        newer=answer.newer,
    )


def _began_at(pieces: Sequence[LogPiece], lines: int) -> int:
    """Say where the last lines should begin: where they do, or at the beginning, where there are fewer than asked."""
    found = sum(piece.data.count(b"\n") for piece in pieces)
    return pieces[0].at if pieces and found >= lines else 0


def _joined(pieces: Iterable[LogPiece], at: int) -> tuple[bytes, int]:
    """Join pieces with a line that says so where something is missing, and count that."""
    text, cut = b"", 0
    for piece in pieces:
        if (missing := piece.at - at) > 0:
            cut += missing
            text += f"\n[{missing} bytes are left out here]\n".encode()
        text += piece.data
        at = piece.at + len(piece.data)
    return text, cut
