"""Files between a console and this VM, below the agent's file area."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from broker.errors import TransferFailed
from broker.routes import kind_of
from broker.transfer import Transfers
from broker.transfer.sending import digest_file
from guest_agent.confine import below
from guest_agent.errors import BadPath, GuestError
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, GuestFile

log = logging.getLogger(__name__)

#: Transfers with consoles that may be open at once.
MOST_OPEN = 8


class ConsoleFiles:
    """Takes offers and gets of consoles; the transfers themselves are ``broker.transfer``'s."""

    def __init__(self, transfers: Transfers, area: Path, partials: Path) -> None:
        self._transfers = transfers
        self._area, self._partials = area, partials
        self._tasks: set[asyncio.Task[None]] = set()

    def on_opening(self, sender: str, message: FileOffer | FileGet) -> bool:
        """Begin what a console asks for. False: it may not, or too many are open."""
        if kind_of(sender) != "console" or not isinstance(message.file, GuestFile):
            return False
        if self._transfers.is_open(message.id):
            return isinstance(message, FileGet) or self._transfers.on_message(sender, message)
        if len(self._tasks) >= MOST_OPEN:
            return False
        task = asyncio.create_task(self._serve(sender, message, message.file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """End what is going on; consoles find out by silence and can go on later."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, sender: str, message: FileOffer | FileGet, file: GuestFile) -> None:
        try:
            path = await asyncio.to_thread(below, self._area, file.path)
            if isinstance(message, FileOffer):
                await self._take(sender, message, path, executable=file.executable)
            else:
                await self._give(sender, message, path)
        except TransferFailed as failure:
            log.info("transfer failed", extra={"transfer": message.id, "why": str(failure)})
        except (GuestError, OSError) as error:
            text = str(error) if isinstance(error, GuestError) else f"{file.path!r}: {error.strerror}"
            self._refuse(sender, message, text, error)

    async def _take(self, sender: str, offer: FileOffer, path: Path, *, executable: bool) -> None:
        partial = self._partials / f"{offer.sha256}.part"
        await self._transfers.receive_file(offer, path, partial, sender, offer.reply)
        await asyncio.to_thread(path.chmod, 0o755 if executable else 0o644)

    async def _give(self, sender: str, get: FileGet, path: Path) -> None:
        size, sha256 = await asyncio.to_thread(digest_file, path)
        offer = FileOffer(id=get.id, file=get.file, size=size, sha256=sha256)
        await self._transfers.send_file(path, offer, sender, get.reply)

    def _refuse(self, sender: str, message: FileOffer | FileGet, text: str, error: Exception) -> None:
        code = ErrorCode.FORBIDDEN if isinstance(error, BadPath) else ErrorCode.NOT_FOUND
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=text))
