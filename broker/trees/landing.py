"""How a received tree lands: its manifest first, which says what of the rest is wanted, then file after file.

The receiver decides. Each file is whole or as it was: it is written aside, synced, and renamed into a directory that
was reached by no link. Modes lose setuid and its like, owners are the receiver's, and what is there besides stays.
Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from broker import durable, reserve
from broker.errors import RoomTaken, TransferFailed
from broker.transfer.gaps import NO_GAPS, Gaps
from broker.transfer.landing import FileLanding
from broker.trees.filling import Filling
from broker.trees.held import HeldTree
from broker.trees.manifest import Manifest, check_offer, judge_manifest
from broker.trees.place import HeldPlace, TreePlace
from broker.trees.placing import Placing
from broker.trees.plan import Planning
from broker.trees.pruning import prune
from schemas.errors import ErrorCode
from schemas.files import FileOffer, GuestTree

#: Files that changed while they were read, named in the sentence that says so.
_MOST_NAMED = 5


class TreeLanding:
    """See ``broker.transfer.landing.Landing``. After ``close`` what came of it is there for who offers the same tree to
    the same place, also where some of its files are others by then."""

    def __init__(
        self, place: TreePlace, offer: FileOffer, tree: GuestTree, on_manifest: Callable[[Manifest], None]
    ) -> None:
        """Take up what was left. Raises as ``Open`` says, and TransferFailed for what may not land there."""
        check_offer(tree, offer.size)
        self._place, self._size, self._sha256 = place, offer.size, offer.sha256
        self._bound, self._on_manifest = tree.manifest, on_manifest
        self._held: HeldPlace | None = HeldPlace(place)
        self._head: FileLanding | None = None
        self._placing: Placing | None = None
        self._manifest = Manifest([], 0)
        self._gaps = NO_GAPS
        self._links: list[int] = []
        self._filling: Filling | None = None
        #: Bytes that have come of it.
        self.came = 0
        try:
            path = place.gathering / f"manifest-{offer.sha256}"
            self._held.tidy(path.name.encode())
            self._head = FileLanding(path, path.with_suffix(".part"), tree.manifest, place.kept)
            if self._head.written == tree.manifest:
                self._begin(self._head)
        except RoomTaken:
            self.close()
            raise
        except BaseException:
            self.discard()
            raise

    @property
    def name(self) -> str:
        """See ``Landing``."""
        return self._place.told

    @property
    def written(self) -> int:
        """See ``Landing``."""
        if self._filling is not None:
            return self._filling.offset
        return self._head.written if self._head is not None else 0

    @property
    def bound(self) -> int:
        """See ``Landing``."""
        return self._bound

    @property
    def gaps(self) -> Gaps:
        """See ``Landing``."""
        return self._gaps

    def write(self, batch: Sequence[bytes]) -> int:
        """See ``Landing``."""
        self.came += sum(map(len, batch))
        if self._filling is None and self._head is not None:
            if self._head.write(batch) == self._bound:
                self._begin(self._head)
        elif batch and self._filling is not None:
            self._demand(sum(len(data) for data in batch if not durable.is_zeros(data)))
            for data in batch:
                self._filling.take(memoryview(data))
        return self.written

    def commit(self, sha256: str) -> None:
        """See ``Landing``. Of a tree that changed while it was read all else lands, and TransferFailed names what did
        not."""
        placing, filling = self._placing, self._filling
        if sha256 != self._sha256 or placing is None or filling is None or self._held is None:
            raise TransferFailed(ErrorCode.CONFLICT, "the manifest is not the one that was offered; send it again")
        placing.place_links(self._links)
        placing.finish(frozenset(filling.changed))
        self._held.settle()
        self._held.remove()
        placing.dress(0)
        if filling.changed:
            self._tell_changed(filling.changed)

    def close(self) -> None:
        """See ``Landing``."""
        with contextlib.suppress(OSError, TransferFailed):
            if self._filling is not None:
                self._filling.close()
            if self._placing is not None:
                self._placing.flush()
        for part in (self._head, self._placing, self._held):
            if part is not None:
                part.close()
        self._held = None

    def discard(self) -> None:
        """See ``Landing``: files that have their names keep them."""
        try:
            if self._held is not None:
                self._held.remove()
        finally:
            self.close()

    def _begin(self, head: FileLanding) -> None:
        """The manifest is there: judge it, look at what is in the place, and make its directories."""
        place = self._held
        if place is None:
            raise TransferFailed(ErrorCode.INTERNAL, f"{self.name} is closed")
        body = head.read_all(self._sha256)
        manifest = judge_manifest(body, self._size)
        self._on_manifest(manifest)
        held = HeldTree(place.open_root(), manifest.entries)
        placing = Placing(manifest, held, place, self.name)
        try:
            is_empty = place.is_new and not prune(manifest, held)
            plan = Planning(manifest, held, self.name, is_empty=is_empty).run()
            gaps = plan.gaps(manifest, place.gathering)
            self._check_room(manifest, gaps, len(plan.directories + plan.files))
            placing.begin(plan)
        except BaseException:
            placing.close()
            raise
        self._manifest, self._placing = manifest, placing
        self._links, self._gaps, self._bound = plan.links, gaps, self._size
        self._filling = Filling(manifest, placing, place.gathering, plan.files)

    def _check_room(self, manifest: Manifest, gaps: Gaps, files: int) -> None:
        """Refuse before the first byte what could not be taken to the last; what is there stays for later."""
        missing = manifest.size - manifest.length - gaps.length
        disk = reserve.look(self._place.gathering, self._place.kept)
        if missing > disk.usable:
            self._refuse(f"{missing} bytes are to come, {disk.told()}; free some space there")
        nodes = os.statvfs(self._place.gathering)
        if nodes.f_files and files > nodes.f_favail:
            self._refuse(f"{files} files and directories are to come, its disk has room for {nodes.f_favail} more")

    def _demand(self, need: int) -> None:
        disk = reserve.look(self._place.gathering, self._place.kept)
        if disk.usable < need <= disk.free:
            self._refuse(f"{need} bytes have come, {disk.told()}")
        if need > disk.usable:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {need} bytes: {disk.told()}", self.name)

    def _refuse(self, why: str) -> NoReturn:
        raise RoomTaken(ErrorCode.STORE, f"no room for {self.name}: {why}")

    def _tell_changed(self, changed: list[int]) -> NoReturn:
        named = ", ".join(self._manifest.told(index) for index in changed[:_MOST_NAMED])
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        text = (
            f"changed while they were read, and were left as they were: {named}{more}. All else of {self.name} is there"
        )
        raise TransferFailed(ErrorCode.CONFLICT, f"{text}; the same once more sends only what is missing")


def into_tree(
    place: TreePlace, offer: FileOffer, on_manifest: Callable[[Manifest], None] = lambda _: None
) -> TreeLanding:
    """Have a tree that is offered land in a place; ``on_manifest`` is called with it, in a thread.

    Raises as ``Open`` says, and TransferFailed where no tree is offered, or it may not land there.
    """
    if not isinstance(offer.file, GuestTree):
        raise TransferFailed(ErrorCode.CONFLICT, "a tree was asked for, and a file was offered")
    return TreeLanding(place, offer, offer.file, on_manifest)
