"""Trees between a console and this VM, below the agent's file area."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from broker.transfer import Transfers
from guest_agent.confine import below
from guest_agent.directory import Directory
from guest_agent.errors import BadPath
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, GuestFile, GuestTree

if TYPE_CHECKING:
    from broker.trees import TreePlace

#: Offers in a row, half a minute of them, that a console may leave unanswered before it counts as gone.
OFFERS_TO_THE_SILENT = 3
#: One that is given up for another to the same place ends within this, seconds.
_ENDS_S = 60.0
#: How what gathers is called.
_ENDING = ".tree"
_TAKEN_OVER = "another push of the same user to the same place has taken over; look there before you send it again"


class _Taking(Struct, eq=False):
    offer: FileOffer
    has_ended: asyncio.Event


class ConsoleTrees:
    """See the module. Raises TransferFailed, BadPath and OSError."""

    def __init__(self, transfers: Transfers, area: Path, partials: Path, threads: Executor) -> None:
        """``threads`` read what is asked for, which may be long."""
        self._transfers, self._threads = transfers, threads
        self._area, self._partials = area, partials
        #: By where they gather.
        self._at_work: dict[Path, _Taking] = {}

    def is_tree(self, file: GuestFile) -> bool:
        """Say whether what is asked for is a directory, and may be one. Blocking."""
        return file.recursive and (_is_area(file.path) or below(self._area, file.path).is_dir())

    async def take(self, sender: str, offer: FileOffer, tree: GuestTree) -> None:
        """Take a tree. Of one sender the last to one place counts: an earlier one may be of a console that is gone."""
        loop = asyncio.get_running_loop()
        place = await loop.run_in_executor(self._threads, self._place, sender, tree)
        await self._take_over(sender, place.gathering, offer)
        taking = self._at_work[place.gathering] = _Taking(offer, asyncio.Event())
        try:
            await self._transfers.receive_file(offer, lambda _: _trees().into_tree(place, offer), sender, offer.reply)
        finally:
            taking.has_ended.set()
            if self._at_work.get(place.gathering) is taking:
                del self._at_work[place.gathering]

    async def give(self, sender: str, get: FileGet, file: GuestFile) -> None:
        """Send a tree."""
        loop = asyncio.get_running_loop()
        trees = await loop.run_in_executor(self._threads, _trees)
        opener = await loop.run_in_executor(self._threads, self._opener, file)
        source = await trees.TreeSource.reading(file.path, opener, self._threads)
        tree = GuestTree(path=file.path, manifest=source.manifest.length)
        offer = FileOffer(id=get.id, file=tree, size=source.manifest.size, sha256=source.sha256)
        await self._transfers.send(source, offer, sender, get.reply, most_offers=OFFERS_TO_THE_SILENT)

    async def _take_over(self, sender: str, gathering: Path, offer: FileOffer) -> None:
        earlier = self._at_work.get(gathering)
        if earlier is None or earlier.offer.id == offer.id:
            return
        old = earlier.offer
        stop = FileAbort(transfer=old.id, code=ErrorCode.INTERRUPTED, message=_TAKEN_OVER)
        self._transfers.on_message(sender, stop)
        self._transfers.tell(sender, old.reply, structs.replace(stop, code=ErrorCode.CONFLICT))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_S):
                await earlier.has_ended.wait()

    def _opener(self, file: GuestFile) -> Callable[[], int]:
        root = self._area.resolve()
        path = root if _is_area(file.path) else below(self._area, file.path)
        parts = path.relative_to(root).parts
        return lambda: _open_way(root, parts, make=False)

    def _place(self, sender: str, tree: GuestTree) -> TreePlace:
        """Give the place that is meant, as ``cp -r`` understands it: what is sent to a directory goes into it."""
        root = self._area.resolve()
        path = root if _is_area(tree.path) else below(self._area, tree.path)
        if tree.source and path.is_dir():
            path /= _own_name(tree.source)
        *way, name = path.relative_to(root).parts or (".",)
        told = path.relative_to(root).as_posix()
        digest = hashlib.sha256(os.fsencode(f"{sender} {path}")).hexdigest()
        place: TreePlace = _trees().TreePlace(
            parent=lambda: _open_way(root, way, make=False),
            make_parent=lambda: _open_way(root, way, make=True),
            name=os.fsencode(name),
            told=repr(os.fsencode(told).decode("utf-8", "backslashreplace")),
            gathering=self._partials / f"{digest[:40]}{_ENDING}",
        )
        return place


def _trees() -> ModuleType:
    """Load, in a thread, what trees take once the first comes: a guest that is sent none is the smaller."""
    import broker.trees

    return broker.trees


def _is_area(path: str) -> bool:
    return path.rstrip("/") in (".", "")


def _own_name(source: bytes) -> str:
    if source in (b".", b"..") or b"/" in source or b"\0" in source:
        raise BadPath(f"source = {source!r}: one part of a path is allowed")
    return os.fsdecode(source)


def _open_way(root: Path, way: list[str] | tuple[str, ...], *, make: bool) -> int:
    """Open a directory below the root step by step, no link followed; what is missing is made, if so asked."""
    here = Directory(root)
    for part in way:
        with here:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here.descriptor)
            here = here.under(part)
    return here.descriptor
