"""Files and trees between a console and this VM, below the agent's file area."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from broker import reserve
from broker.errors import TransferFailed
from broker.transfer import Transfers, into_file
from broker.transfer.leftovers import name_of_partial, remove_left_behind
from broker.transfer.scheduler import TransferLimits
from broker.transfer.sending import read_digest
from broker.transfer.threads import in_thread
from broker.transfer.transfer_queue import TransferQueue
from guest_agent.confine import below
from guest_agent.errors import BadPath, GuestError
from guest_agent.trees import OFFERS_TO_THE_SILENT, ConsoleTrees
from schemas.codec import clip
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, GuestFile, GuestTree
from schemas.ids import Kind, kind_of

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Transfers with consoles: at work, of one console, and, those that wait included, known.
LIMITS = TransferLimits(at_work=8, at_work_of_one=8, at_work_of_kin=8, known=64, known_of_one=64, known_of_kin=64)
#: A push that broke off can go on for this long: its console has given it up by then, seconds.
KEEP_PARTIAL_S = 3600.0
#: Files of pushes that broke off, kept at most.
MOST_PARTIALS = 64
#: They have together one part in so many of the disk.
PARTIALS_PART = 10
#: How often they are looked at, seconds.
SWEEP_S = 300.0


class ConsoleFiles:
    """Takes offers and gets of consoles; the transfers themselves are ``broker.transfer``'s."""

    def __init__(self, transfers: Transfers, area: Path, partials: Path) -> None:
        self._transfers = transfers
        self._area, self._partials = area, partials
        self._queue = TransferQueue(transfers, LIMITS)
        #: What is looked for and read through at once is long: threads of its own, which nobody else waits for.
        self._threads = ThreadPoolExecutor(LIMITS.at_work, thread_name_prefix="console files")
        self._trees = ConsoleTrees(transfers, area, partials, self._threads)

    def on_opening(self, sender: str, message: FileOffer | FileGet) -> bool:
        """Begin what a console asks for, now or when there is room. False: it may not."""
        file = message.file
        if kind_of(sender) is not Kind.CONSOLE or not isinstance(file, GuestFile | GuestTree):
            return False
        self._queue.open(sender, message, lambda: self._serve(sender, message, file))
        return True

    async def sweep(self) -> None:
        """Remove what pushes that broke off have left, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self._remove_left_behind)
            except OSError as error:
                log.error("partial files not looked through", extra={"why": str(error)})
            await asyncio.sleep(SWEEP_S)

    async def close(self) -> None:
        """End what is going on; consoles find out by silence and can go on later."""
        await self._queue.close()

    async def _serve(self, sender: str, message: FileOffer | FileGet, file: GuestFile | GuestTree) -> None:
        try:
            if isinstance(file, GuestFile):
                await self._serve_file(sender, message, file)
            elif isinstance(message, FileOffer):
                await self._trees.take(sender, message, file)
            else:
                raise BadPath(f"path = {file.path!r}: ask for it as a path, and what it is will be told")
        except TransferFailed as failure:
            log.info("transfer failed", extra={"transfer": message.id, "why": str(failure)})
        except (GuestError, OSError) as error:
            text = str(error) if isinstance(error, GuestError) else _told(file.path, error)
            self._refuse(sender, message, text, error)

    async def _serve_file(self, sender: str, message: FileOffer | FileGet, file: GuestFile) -> None:
        if isinstance(message, FileGet) and await self._in_thread(self._trees.is_tree, file):
            await self._trees.give(sender, message, file)
            return
        path = await self._in_thread(self._place, message, file)
        if isinstance(message, FileOffer):
            await self._take(sender, message, path, executable=file.executable)
        else:
            await self._give(sender, message, path)

    def _place(self, message: FileOffer | FileGet, file: GuestFile) -> Path:
        """Give the path that is meant, as ``cp`` understands it: what is sent to a directory goes into it."""
        path = below(self._area, file.path)
        if isinstance(message, FileGet):
            return path
        if path.is_dir():
            inner = below(self._area, f"{file.path}/{Path(file.source).name}") if file.source else path
            if inner.is_dir():
                raise BadPath(f"path = {file.path!r}: {inner.name!r} is a directory there; name the file")
            return inner
        if file.path.endswith("/"):
            raise BadPath(f"path = {file.path!r}: there is no such directory; without the slash it names a file")
        return path

    async def _take(self, sender: str, offer: FileOffer, path: Path, *, executable: bool) -> None:
        partial = self._partials / name_of_partial(sender, offer)
        mode = 0o755 if executable else 0o644
        await self._transfers.receive_file(
            offer, into_file(path, partial), sender, offer.reply, confirm=lambda: in_thread(path.chmod, mode)
        )

    async def _give(self, sender: str, get: FileGet, path: Path) -> None:
        size, sha256 = await read_digest(path, self._threads)
        offer = FileOffer(id=get.id, file=get.file, size=size, sha256=sha256)
        await self._transfers.send_file(path, offer, sender, get.reply, most_offers=OFFERS_TO_THE_SILENT)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _remove_left_behind(self) -> None:
        if self._partials.is_dir():
            removed = remove_left_behind(
                self._partials.iterdir(),
                now_s=time.time(),
                keep_s=KEEP_PARTIAL_S,
                most=MOST_PARTIALS,
                most_bytes=reserve.look(self._partials).size // PARTIALS_PART,
            )
            for path in removed:
                log.info("partial file removed", extra={"path": path.name})

    def _refuse(self, sender: str, message: FileOffer | FileGet, text: str, error: Exception) -> None:
        code = ErrorCode.FORBIDDEN if isinstance(error, BadPath) else ErrorCode.NOT_FOUND
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=clip(text)))


def _told(path: str, error: OSError) -> str:
    """Say what is the matter with what was asked for, or with something in it."""
    inside = error.filename if isinstance(error.filename, str) and not error.filename.startswith("/") else ""
    return f"{path!r}{inside and f', {inside}'}: {error.strerror}"
