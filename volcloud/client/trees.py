"""Trees to and from VMs: a directory and all below it, as one transfer.

What is there already with the same bytes is not sent, so the same call once more goes on where it broke off. Symbolic
links are links; hard links beyond the first name, devices, FIFOs and sockets are named and left out. Raises what the
methods of files do. ``progress`` is called with a ``TreeProgress``, in the client's thread, and must return at once.
"""

from __future__ import annotations

import asyncio
import glob
import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from msgspec import Struct

from broker import durable
from broker.errors import TransferFailed
from broker.transfer import into_file
from broker.transfer.landing import PART, Open
from broker.transfer.leftovers import remove_left_behind
from broker.trees import Manifest, TreeLanding, TreePlace, TreeSource, into_tree
from schemas.errors import ErrorCode
from schemas.files import FileGet, FileOffer, GuestFile, GuestTree
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.vms import AsyncVms, check_live
from volcloud.client.watched_transfers import TransferWatch, WatchedTransfers, make_partial, remove_partials
from volcloud.errors import BadInput

#: What gathered for a pull that broke off goes at a later one of the same name, after this long, seconds.
KEEP_S = 86400.0
#: How what gathers is called, behind the name of what it is to be.
_ENDING, _DIGITS = ".volcloud-tree", 16
#: Last parts of a path that mean what is in a directory, and not itself.
_INSIDE = ("", ".", "..")


class TreeProgress(Struct, frozen=True, kw_only=True):
    """How far a tree is. The totals are 0 while they are not known; what is there already counts as done."""

    entries: int = 0
    all_entries: int = 0
    bytes: int = 0
    all_bytes: int = 0


class MovedTree(Struct, frozen=True, kw_only=True):
    """What has been moved: a tree, or a file where one was asked for. ``size`` is what its files hold, their holes left
    out; ``sent`` what of it went over the wire, a tree's manifest included."""

    path: str
    is_tree: bool
    entries: int
    size: int
    sent: int
    sha256: str
    #: What was left out, each with the reason.
    skipped: list[str]
    #: How many these are in all: of many the first are named.
    left_out: int = 0


class AsyncTrees:
    """See the module."""

    def __init__(self, session: ClientSession, vms: AsyncVms) -> None:
        self._session, self._vms = session, vms

    async def push(
        self, local: Path | str, vm: str, path: str = "", *, progress: Callable[[TreeProgress], None] | None = None
    ) -> MovedTree:
        """Send a directory into a VM: to ``path`` below its agent's file area, or into it where that is a directory, as
        with ``cp -r``. ``local`` with a slash at its end is what is in it: that goes into ``path`` itself."""
        row = check_live(await self._vms.get(vm))
        watched = self._session.transfers
        source = await _read(watched, local)
        tree = GuestTree(path=path or ".", manifest=source.manifest.length, source=_own_name(local))
        offer = FileOffer(file=tree, size=source.manifest.size, sha256=source.sha256)
        counter = _Counter(progress, source.manifest)
        watch = TransferWatch(offer.size, counter.count)
        work = watched.transfers.send(source, offer, row.status.vm, progress=watch.on_bytes)
        slow = f"{source.name}: {vm} compares it with what it has, before the first byte of a file is sent"
        counter.slow = asyncio.get_running_loop().call_later(watched.say_s, watched.say, slow)
        try:
            sending = await watched.while_moving(work, offer.id, watch, row.status.vm, source.name)
        finally:
            counter.slow.cancel()
        return _moved(path or source.name, offer, source.manifest, sending.sent_bytes)

    async def pull(
        self,
        vm: str,
        path: str,
        local: Path | str | None = None,
        *,
        progress: Callable[[TreeProgress], None] | None = None,
    ) -> MovedTree:
        """Take a directory, or a file, out of a VM: to ``local``, or into it where that is a directory, as with
        ``cp -r``; by default under its own name, here. ``path`` with a slash at its end is what is in it."""
        row = check_live(await self._vms.get(vm))
        pull = TreePull(self._session.transfers, row.status.vm, path, local, progress)
        return await pull.run()


class BlockingTrees(Blocking[AsyncTrees]):
    """See the module."""

    push = blocking(AsyncTrees.push)
    pull = blocking(AsyncTrees.pull)


class TreePull:
    """One pull: what is asked for turns out to be a tree or a file, and where it goes is decided then."""

    def __init__(
        self,
        watched: WatchedTransfers,
        vm: str,
        path: str,
        local: Path | str | None,
        progress: Callable[[TreeProgress], None] | None,
    ) -> None:
        self._watched, self._vm, self._path = watched, vm, path
        self._local = None if local is None else Path(local)
        self._counter = _Counter(progress)
        self._get = FileGet(file=GuestFile(path=path, recursive=True))
        self._target = Path()
        self._partial: Path | None = None
        self._landing: TreeLanding | None = None

    async def run(self) -> MovedTree:
        """Take it; see ``AsyncTrees.pull``."""
        try:
            self._path.encode()
        except UnicodeEncodeError as error:
            text = f"path = {os.fsencode(self._path)!r} is no UTF-8"
            raise BadInput(text, "name a directory above it: what is in it may have any name") from error
        watch = TransferWatch(0, self._counter.count)
        slow = f"{self._path}: {self._vm} reads it for its SHA-256, before the first byte is sent"
        self._slow = asyncio.get_running_loop().call_later(self._watched.say_s, self._watched.say, slow)
        work = self._watched.transfers.fetch(self._get, self._landing_of, self._vm, progress=watch.on_bytes)
        try:
            offer = await self._watched.while_moving(work, self._get.id, watch, self._vm, self._path)
        finally:
            self._slow.cancel()
            if self._partial is not None:
                await asyncio.to_thread(remove_partials, self._target, self._partial)
        came = self._landing.came if self._landing is not None else offer.size
        return _moved(str(self._target), offer, self._counter.manifest, came)

    def _landing_of(self, offer: FileOffer) -> Open:
        """What is asked for has turned out to be a tree, or a file."""
        self._slow.cancel()
        try:
            self._target = self._find_target(is_tree=isinstance(offer.file, GuestTree))
            return self._tree(offer) if isinstance(offer.file, GuestTree) else self._file()
        except OSError as error:
            text = f"{error.filename or self._target}: {error.strerror}"
            raise TransferFailed(ErrorCode.STORE, text) from error

    def _find_target(self, *, is_tree: bool) -> Path:
        local = self._local or Path()
        name = PurePosixPath(self._path).name
        is_inside = is_tree and (self._path.endswith("/") or name in _INSIDE)
        if is_inside or not (local.is_dir() or self._local is None):
            return local
        return local / name

    def _tree(self, offer: FileOffer) -> Open:
        target = self._target.resolve() if self._target.is_dir() else self._target.parent.resolve() / self._target.name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(f"{self._vm} {self._path} {target}")).hexdigest()[:_DIGITS]
        beside = target / f"{target.name or 'root'}" if target.is_dir() else target
        gathering = durable.beside(beside, f"{digest}{_ENDING}")
        opener = partial(os.open, target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        place = TreePlace(
            parent=opener,
            make_parent=opener,
            name=os.fsencode(target.name or "."),
            told=str(self._target),
            gathering=gathering,
            kept=0,
        )
        return lambda _: self._land(place, offer)

    def _land(self, place: TreePlace, offer: FileOffer) -> TreeLanding:
        """In a thread: what earlier pulls to the same target have left, and nobody goes on with, goes first."""
        stem = place.gathering.name.removesuffix(_ENDING)[:-_DIGITS]
        names = glob.escape(stem) + "[0-9a-f]" * _DIGITS + _ENDING
        others = [one for one in place.gathering.parent.glob(names) if one != place.gathering]
        remove_left_behind(others, now_s=time.time(), keep_s=KEEP_S, most=len(others))
        self._landing = into_tree(place, offer, self._counter.begin)
        return self._landing

    def _file(self) -> Open:
        self._partial = durable.beside(self._target, f"{self._get.id[-12:]}{PART}")
        make_partial(self._partial)
        return into_file(self._target, self._partial, kept=0)


class _Counter:
    """Turns how far a stream is into what a person wants to know."""

    def __init__(self, progress: Callable[[TreeProgress], None] | None, manifest: Manifest | None = None) -> None:
        self._progress, self.manifest = progress, manifest
        #: What says that nothing has moved yet.
        self.slow: asyncio.TimerHandle | None = None

    def begin(self, manifest: Manifest) -> None:
        """The manifest has come."""
        self.manifest = manifest

    def count(self, offset: int, size: int) -> None:
        """It is so far."""
        if self.slow is not None and self.manifest is not None and offset > self.manifest.length:
            self.slow.cancel()
        if self._progress is None:
            return
        if self.manifest is None:
            self._progress(TreeProgress(bytes=offset, all_bytes=size))
            return
        begun, manifest = max(offset, self.manifest.length), self.manifest
        told = TreeProgress(
            entries=manifest.entries_before(begun) if begun < manifest.size else len(manifest.entries),
            all_entries=len(manifest.entries),
            bytes=begun - manifest.length,
            all_bytes=manifest.size - manifest.length,
        )
        self._progress(told)


async def _read(watched: WatchedTransfers, local: Path | str) -> TreeSource:
    """Read a tree for its manifest; one that takes long to read is told of."""
    name = os.fspath(local).rstrip("/").rpartition("/")[2] or str(local)
    opener = partial(os.open, local, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    reading = asyncio.ensure_future(TreeSource.reading(name, opener))
    try:
        await asyncio.wait([reading], timeout=watched.say_s)
        if not reading.done():
            watched.say(f"{name}: is read for the SHA-256 of each file, before the first byte is sent")
        return await reading
    except OSError as error:
        what = f"{local}: {error.filename}" if error.filename not in (None, str(local), local) else f"{local}"
        text = f"{what} cannot be read: {error.strerror}"
        raise BadInput(text, "name a directory that can be read wholly, or change who may read that") from error
    finally:
        reading.cancel()


def _own_name(local: Path | str) -> bytes:
    """Give a directory's name as far as the person means it: with a slash behind it, he means what is in it."""
    name = os.fsencode(local).rpartition(b"/")[2]
    return b"" if os.fsdecode(name) in _INSIDE else name


def _moved(path: str, offer: FileOffer, manifest: Manifest | None, sent: int) -> MovedTree:
    if manifest is None:
        return MovedTree(
            path=path, is_tree=False, entries=1, size=offer.size, sent=offer.size, sha256=offer.sha256, skipped=[]
        )
    return MovedTree(
        path=path,
        is_tree=True,
        entries=len(manifest.entries) - 1 - manifest.left_out,
        size=manifest.size - manifest.length,
        sent=sent,
        sha256=offer.sha256,
        skipped=manifest.skipped(),
        left_out=manifest.left_out,
    )
