"""The transfers that one principal has open, and who may speak in each.

A message of a transfer counts only from its peer: a VM, a console, or, where any storage adapter may take over, any
adapter. Everything else is dropped and counted; nothing is ever written for a transfer that is not open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.errors import TransferFailed
from broker.inbound import Refusal, take_in
from broker.transfer.core import PeerPatience
from broker.transfer.landing import Open
from broker.transfer.peer import ANY_ADAPTER, Peer
from broker.transfer.receiving import WINDOW_S, Receiving
from broker.transfer.sending import LONGEST_SILENCE, MOST_OFFERS, SILENCE_S, FileSource, Sending
from broker.transfer.source import Source
from schemas.codec import clip
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileChunk, FileDone, FileGet, FileOffer, FileWait, FileWindow, InputFile
from schemas.ids import Kind, kind_of


class _Open(msgspec.Struct, kw_only=True):
    peer: Peer
    end: Receiving | Sending | None = None
    offered: asyncio.Future[FileOffer] | None = None
    progress: Callable[[int], None] | None = None
    #: Whether what was asked for last was answered.
    is_answered: bool = False


class Transfers:
    """See the module. Feed it every delivery of files that comes to its principal."""

    def __init__(self, connection: Carrier, *, my_suffix: str = "") -> None:
        self._connection = connection
        self._my_suffix = my_suffix
        self._open: dict[str, _Open] = {}
        self.refused: Counter[str] = Counter()
        #: Bytes of files that went by, as (received, sent).
        self.received_bytes = 0
        self.sent_bytes = 0
        connection.on_up.append(self._on_up)

    async def send_file(
        self,
        path: Path,
        offer: FileOffer,
        peer: str,
        suffix: str = "",
        *,
        most_offers: int = MOST_OFFERS,
        window_s: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Sending:
        """Send a file to ``peer`` (ANY_ADAPTER: whichever takes it). Raises TransferFailed; see ``Sending``."""
        return await self.send(
            FileSource(path), offer, peer, suffix, most_offers=most_offers, window_s=window_s, progress=progress
        )

    async def send(
        self,
        source: Source,
        offer: FileOffer,
        peer: str,
        suffix: str = "",
        *,
        most_offers: int = MOST_OFFERS,
        window_s: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Sending:
        """Send whatever it is; see ``send_file``."""
        entry = self._open[offer.id] = _Open(peer=self._peer(peer, suffix))
        sending = Sending(
            offer,
            source,
            entry.peer.send_chunk,
            entry.peer.tell,
            most_offers=most_offers,
            window_s=window_s,
            progress=progress,
            is_heard=entry.peer.is_heard,
        )
        entry.end = sending
        try:
            await sending.run()
        finally:
            self._open.pop(offer.id, None)
            self.sent_bytes += sending.sent_bytes
        return sending

    async def receive_file(
        self,
        offer: FileOffer,
        land: Open,
        peer: str,
        suffix: str = "",
        *,
        progress: Callable[[int], None] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
        window_s: float = WINDOW_S,
    ) -> None:
        """Take the file that ``peer`` offers; ``confirm`` runs before the peer is told. Raises TransferFailed.

        A peer that is silent for long, or sends less than a window in ``window_s``, is gone: TIMEOUT, and what came
        stays for when it offers again.
        """
        entry = self._open[offer.id] = _Open(peer=self._peer(peer, suffix))
        hooks = {"progress": progress, "confirm": confirm, "window_s": window_s}
        await self._receive(entry, offer, land, **hooks)

    async def fetch_file(
        self,
        get: FileGet,
        land: Open,
        peer: str,
        *,
        progress: Callable[[int], None] | None = None,
        ask_every_s: float = SILENCE_S,
    ) -> FileOffer:
        """Ask for a file and take it; see ``fetch``."""
        return await self.fetch(get, lambda _: land, peer, progress=progress, ask_every_s=ask_every_s)

    async def fetch(
        self,
        get: FileGet,
        landing_of: Callable[[FileOffer], Open],
        peer: str,
        *,
        progress: Callable[[int], None] | None = None,
        ask_every_s: float = SILENCE_S,
    ) -> FileOffer:
        """Ask ``peer`` (or ANY_ADAPTER) for something and take it; through silences ask again for ever, less and less
        often. It lands as ``landing_of`` makes of what is
        offered, which may raise TransferFailed. ``progress`` is called with what came, also where the peer only says
        that it is there.

        Raises TransferFailed; CONFLICT when what is offered for an input has not the SHA-256 that names it. When
        cancelled it tells the peer, which would offer for a while otherwise.
        """
        offered: asyncio.Future[FileOffer] = asyncio.get_running_loop().create_future()
        entry = self._open[get.id] = _Open(peer=self._peer(peer), offered=offered, progress=progress)
        hooks = {"again": lambda: entry.peer.ask(get), "progress": progress, "most_stalls": None}
        try:
            offer = await self._until_offered(entry, get, offered, ask_every_s)
            self._check_asked(entry, get, offer)
            await self._receive(entry, offer, self._landing_of(entry, offer, landing_of), **hooks)
        except asyncio.CancelledError:
            entry.peer.tell(FileAbort(transfer=get.id, code=ErrorCode.INTERRUPTED, message="nobody waits for it"))
            raise
        finally:
            self._open.pop(get.id, None)
        return offer

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a delivery of the files queue; acknowledges it whatever it is."""
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self.refused[letter.reason] += 1
        elif not self.on_message(letter.sender, letter.message):
            self.refused["no_such_transfer"] += 1

    def tell(self, peer: str, suffix: str, message: Message) -> None:
        """Say something to a peer with whom no transfer is open: that there will be none."""
        self._peer(peer, suffix).tell(message)

    def is_open(self, transfer: str) -> bool:
        """Say whether a transfer is going on."""
        return transfer in self._open

    def is_finishing(self, transfer: str) -> bool:
        """Say whether all bytes of a transfer have come, and it is at the rest: one that is not open is not."""
        entry = self._open.get(transfer)
        return entry is not None and isinstance(entry.end, Receiving) and entry.end.is_finishing

    def is_heard(self, transfer: str) -> bool:
        """Say whether the broker has taken what we said last: then a silence is the peer's."""
        entry = self._open.get(transfer)
        return entry is None or entry.peer.is_heard()

    def on_message(self, sender: str, message: Message) -> bool:
        """Hand a message to its transfer. False: there is none, the sender is not its peer, or a chunk is of no use."""
        transfer = message.id if isinstance(message, FileOffer) else getattr(message, "transfer", "")
        entry = self._open.get(transfer)
        if entry is None or not entry.peer.is_one(sender):
            return False
        if kind_of(sender) is Kind.ADAPTER and not _may_serve(entry, sender, message):
            return False
        if isinstance(entry.end, Receiving) and isinstance(message, FileChunk):
            return entry.end.on_chunk(message)
        self._dispatch(entry, message)
        return True

    def _dispatch(self, entry: _Open, message: Message) -> None:
        match entry.end, message:
            case Receiving() as end, FileOffer():
                end.again()
            case Receiving() | Sending() as end, FileAbort():
                end.on_abort(message)
            case Receiving() | Sending() as end, FileWait():
                end.on_wait()
            case None, FileWait():
                entry.is_answered = True
                if entry.progress is not None:
                    entry.progress(0)
            case Sending() as end, FileWindow():
                end.on_window(message)
            case Sending() as end, FileDone():
                end.on_done()
            case None, FileOffer() | FileAbort() if entry.offered is not None:
                _settle(entry.offered, message)

    def _on_up(self) -> None:
        """The link is new: what was on its way is lost, so ask for it, or offer, at once."""
        for entry in self._open.values():
            if entry.end is not None:
                entry.end.again()

    async def _receive(
        self,
        entry: _Open,
        offer: FileOffer,
        land: Open,
        **hooks: Any,
    ) -> None:
        receiving = Receiving(
            offer,
            land,
            entry.peer.tell,
            is_heard=entry.peer.is_heard,
            is_alone=self._is_one_received,
            **hooks,
        )
        entry.end = receiving
        try:
            self.received_bytes += await receiving.run()
        finally:
            self._open.pop(offer.id, None)

    def _is_one_received(self) -> bool:
        return sum(isinstance(entry.end, Receiving) for entry in self._open.values()) <= 1

    async def _until_offered(
        self, entry: _Open, get: FileGet, offered: asyncio.Future[FileOffer], every_s: float
    ) -> FileOffer:
        patience = PeerPatience(first_s=every_s, most_times=LONGEST_SILENCE)
        while not offered.done():
            entry.is_answered = False
            entry.peer.ask(get)
            await asyncio.wait([offered], timeout=patience.wait_s)
            if entry.is_answered:
                patience.regain()
            elif entry.peer.is_heard():
                patience.lose()
        return offered.result()

    def _check_asked(self, entry: _Open, get: FileGet, offer: FileOffer) -> None:
        """An input is named by its SHA-256: refuse anything else. Raises TransferFailed."""
        if isinstance(get.file, InputFile) and offer.sha256 != get.file.sha256:
            text = f"asked for the input {get.file.sha256}, offered a file with SHA-256 {offer.sha256}"
            entry.peer.tell(FileAbort(transfer=get.id, code=ErrorCode.CONFLICT, message=text))
            raise TransferFailed(ErrorCode.CONFLICT, text)

    def _landing_of(self, entry: _Open, offer: FileOffer, landing_of: Callable[[FileOffer], Open]) -> Open:
        try:
            return landing_of(offer)
        except TransferFailed as failure:
            entry.peer.tell(FileAbort(transfer=offer.id, code=failure.code, message=clip(str(failure))))
            raise

    def _peer(self, name: str, suffix: str = "") -> Peer:
        return Peer(self._connection, name, suffix, my_suffix=self._my_suffix)


def _may_serve(entry: _Open, sender: str, message: Message) -> bool:
    """Have the adapter that grants or offers be the peer. False: it offers what another one has at work."""
    is_offer = isinstance(message, FileOffer)
    if is_offer and entry.peer.name not in (sender, ANY_ADAPTER) and not _is_stalled(entry):
        return False
    if is_offer or isinstance(message, FileWindow):
        entry.peer.name = sender
    return True


def _is_stalled(entry: _Open) -> bool:
    return not isinstance(entry.end, Receiving) or entry.end.is_stalled


def _settle(offered: asyncio.Future[FileOffer], message: Message) -> None:
    if offered.done():
        return
    if isinstance(message, FileAbort):
        offered.set_exception(TransferFailed(message.code, message.message))
    elif isinstance(message, FileOffer):
        offered.set_result(message)
