"""The other end of one transfer: what is said to it, by which route, and whether the broker has taken that."""

from __future__ import annotations

import asyncio

import msgspec

from broker.carrier import Carrier
from broker.errors import Disconnected
from broker.outbound import send
from broker.routes import Route, file_route, up
from schemas.envelope import Message
from schemas.files import FileChunk, FileGet, FileOffer
from schemas.ids import Kind, kind_of

#: The peer of a transfer that any storage adapter may serve.
ANY_ADAPTER = "adapter-"


class Peer:
    """See the module. What is said may be lost. ``name`` becomes that of the adapter that takes a transfer on."""

    def __init__(self, carrier: Carrier, name: str, suffix: str = "", *, my_suffix: str = "") -> None:
        """``suffix`` names the peer's queue beside its main one, ``my_suffix`` ours, where it answers."""
        self.name, self._suffix = name, suffix
        self._carrier, self._my_suffix = carrier, my_suffix
        #: The broker's confirm of what we said last.
        self._word: asyncio.Future[None] | None = None
        #: That of what we asked for last.
        self._asked: asyncio.Future[None] | None = None

    def is_one(self, sender: str) -> bool:
        """Say whether a sender may speak in this transfer: the peer, and of adapters each."""
        if kind_of(self.name) is Kind.ADAPTER:
            return kind_of(sender) is Kind.ADAPTER
        return sender == self.name

    def is_heard(self) -> bool:
        """Say whether the broker has taken what we said last: if not, a silence is not the peer's.

        A word that the broker has neither confirmed nor refused may lie in a link that is dead, or a broker that is.
        """
        word = self._word
        return word is None or (word.done() and not word.cancelled() and not isinstance(word.exception(), Disconnected))

    def tell(self, message: Message) -> None:
        """Say something; nothing, but for an offer, while it is not known which adapter is the peer."""
        if isinstance(message, FileOffer):
            self._offer(message)
        elif self.name != ANY_ADAPTER:
            self._word = self._publish(self._route(), message)

    def ask(self, get: FileGet) -> None:
        """Ask for a file, unless what we asked last lies in our own line still."""
        if self._asked is None or self._asked.done():
            self._word = self._asked = self._publish(self._opening_route(), get)

    def send_chunk(self, chunk: FileChunk) -> asyncio.Future[None]:
        """Send a chunk; give its confirm."""
        route = file_route(self._carrier.user, self.name, self._suffix, is_chunk=True)
        self._word = send(self._carrier, route, chunk, mandatory=False, persistent=False)
        return self._word

    def _offer(self, offer: FileOffer) -> None:
        """Offer; but while what we said last lies in our own line, one offer more would lie behind it."""
        if self._word is None or self._word.done():
            self._word = self._publish(self._opening_route(), offer)

    def _opening_route(self) -> Route:
        if kind_of(self.name) is Kind.ADAPTER:
            return up(self._carrier.user, "offer")
        return self._route()

    def _route(self) -> Route:
        return file_route(self._carrier.user, self.name, self._suffix, is_chunk=False)

    def _publish(self, route: Route, message: Message) -> asyncio.Future[None]:
        message = msgspec.structs.replace(message, reply=self._my_suffix)
        return send(self._carrier, route, message, mandatory=False, persistent=False)
