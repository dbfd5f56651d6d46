"""A client's link to the broker, and what rides on it: calls, with one exclusive reply queue, and files.

Before it is open and after it is closed, whoever wants something of it gets ClientNotOpen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.address import Address
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.errors import BrokerError, Crowded, Disconnected, LoginRefused, QueueGone, Untrusted
from broker.rpc.caller import Caller
from broker.transfer import Transfers
from volcloud.client.centre_caller import CentreCaller
from volcloud.client.watched_transfers import Say, WatchedTransfers
from volcloud.errors import ClientNotOpen, Unreachable

#: How long connecting may take before the system counts as unreachable, seconds: a person waits, and is told in ten;
#: a broker that is started again is back before. After so long he is told what is waited for.
PATIENCE_S, SAY_AFTER_S = 7.5, 3.0


class ClientSession:
    """See the module. Belongs to the loop that opened it."""

    def __init__(self, address: Address, say: Say) -> None:
        self._address, self._say = address, say
        self._connection = Connection(address, name=f"{address.user} client", wait_most_s=CENTRE_WAIT_MOST_S)
        self._caller = Caller(self._connection)
        self._transfers = Transfers(self._connection, my_suffix=self._caller.suffix)
        self._caller.on_other = self._transfers.on_message
        self._watched = WatchedTransfers(self._transfers, say)
        self._is_open = self._is_closed = False
        #: Asks the adapters and the key manager.
        self.centre = CentreCaller(lambda: self.caller)

    def __str__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._is_open else "not open"
        return f"{self.user} at {self._address.where}, {state}"

    @property
    def user(self) -> str:
        """The principal that it is."""
        return self._address.user

    @property
    def connection(self) -> Connection:
        """The link itself. Raises ClientNotOpen."""
        self._check_open()
        return self._connection

    @property
    def caller(self) -> Caller:
        """What calls agents. Raises ClientNotOpen."""
        self._check_open()
        return self._caller

    @property
    def transfers(self) -> WatchedTransfers:
        """What moves files. Raises ClientNotOpen."""
        self._check_open()
        return self._watched

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientNotOpen
        if not self._is_open:
            raise ClientNotOpen("the client is not open yet", "`await client.open()`, or `await AsyncClient.connect()`")

    async def open(self) -> None:
        """Connect; call once. Raises Unreachable; it is closed then."""
        where = f"the broker at {self._address.where}"
        try:
            with self._saying_after(SAY_AFTER_S, lambda: f"waiting for {where}: {self._connection.last_error}"):
                await self._connection.open(patience_s=PATIENCE_S)
            await self._caller.open(self._address.user)
        except Disconnected as error:
            await self.close()
            raise self._unreachable(where, error) from error
        except (LoginRefused, QueueGone, Untrusted) as error:
            await self.close()
            raise self._refused(where, error) from error
        self._is_open = True

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self._is_closed = True
        await self._connection.close()

    @contextmanager
    def _saying_after(self, silence_s: float, text: Callable[[], str]) -> Iterator[None]:
        """Say it once if what is inside takes so long."""
        timer = asyncio.get_running_loop().call_later(silence_s, lambda: self._say(text()))
        try:
            yield
        finally:
            timer.cancel()

    def _refused(self, where: str, error: BrokerError) -> Unreachable:
        if isinstance(error, Untrusted):
            text = f"{where} is not to be trusted: {error}"
            return Unreachable(text, "mend the tls part of the credential, or what the broker shows")
        text = f"{where} refuses {self._address.user}: {error}"
        return Unreachable(text, "the credential is of another system: `volcloud down`, then up again")

    def _unreachable(self, where: str, error: Disconnected) -> Unreachable:
        if isinstance(self._connection.last_error, Crowded):
            text = f"{self._address.user} has as many connections as it may have at once: {self._connection.last_error}"
            return Unreachable(text, "end one of its other commands, or wait for it")
        text = f"{where} does not answer in {PATIENCE_S:g} s"
        why = str(self._connection.last_error)
        return Unreachable(text if why in text else f"{text}: {why}", "start it with `volcloud up`")
