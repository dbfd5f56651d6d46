"""Who this VM is: its seed, the one-time login traded for a credential of its own, the file that keeps it.

The address source of the agent's connection: asked again after a refusal, it looks for a newer seed and enrols anew.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from broker import durable
from broker.address import Address, read_address
from broker.backoff import backoff
from broker.connection import Connection, Delivery
from broker.daemon.tasks import OwnedTasks
from broker.errors import BrokerError, NotDelivered
from broker.inbound import Letter, take_in
from broker.outbound import publish
from broker.routes import up
from guest_agent.errors import NotEnrolled
from guest_agent.seed import SeedSource
from schemas.enrol import Credential, EnrolTrade
from schemas.errors import DecodeError
from schemas.seed import Seed, decode_seed

log = logging.getLogger(__name__)

#: How long the key manager may take to answer a one-time login, seconds.
TRADE_TIMEOUT_S = 15.0


class KeptCredential(msgspec.Struct, frozen=True):
    """A credential on disk: good for one generation of one VM."""

    vm: str
    generation: int
    address: Address


class Identity:
    """See the module."""

    def __init__(self, source: SeedSource, state: Path, whereabouts: Path | None = None) -> None:
        """``whereabouts`` is a credential of the host's, which says where the broker is by now; None: where the seed
        says."""
        self._source, self._whereabouts = source, whereabouts
        self._file = state / "credential.json"
        self._seed: Seed | None = None
        #: What was got last, and what writes it down.
        self._fresh: KeptCredential | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._closing, self._writers, self._writing = OwnedTasks("identity"), OwnedTasks("identity"), asyncio.Lock()

    async def close(self) -> None:
        """Wait for the ends of connections that are of no use any more. What a disk does not take is given up."""
        await self._writers.cancel()
        await self._closing.finish()

    async def kept(self) -> None:
        """Wait until the newest credential is on the disk, for as long as it takes: before, it is not to be confirmed,
        since another agent here would have to get it once more."""
        while (keeping := self._keeping) is not None:
            await asyncio.wait([keeping])
            if keeping is self._keeping:
                return

    @property
    def seed(self) -> Seed:
        """The newest seed. Raises NotEnrolled before ``load``."""
        if self._seed is None:
            raise NotEnrolled("no seed was found: this VM was not started by a host agent")
        return self._seed

    @property
    def generation(self) -> int:
        """The boot generation that this agent speaks for."""
        return self.seed.generation

    async def load(self) -> Seed:
        """Find the first seed, for as long as it takes."""
        for wait_s in backoff(0.2, 5.0):
            try:
                self._seed = decode_seed(await self._source.read())
                return self._seed
            except (DecodeError, OSError) as error:
                log.warning("no seed yet", extra={"why": str(error)})
                await asyncio.sleep(wait_s)
        raise NotEnrolled("no seed")

    def renew(self, body: bytes) -> bool:
        """Take a seed that the host handed in. True when it is of a newer generation."""
        try:
            seed = decode_seed(body)
        except DecodeError as error:
            log.warning("seed not readable", extra={"why": error.reason})
            return False
        is_newer = seed.generation > self.generation
        if is_newer:
            self._seed = seed
        return is_newer

    async def address(self, refused: bool) -> Address:
        """Give the credential: the kept one if it is of this generation, else one got for the one-time login.

        A refused one is traded anew where that can be; where it cannot, it is tried again: a refusal may pass.
        """
        return self._there(await self._credential(refused))

    def _there(self, address: Address) -> Address:
        """Point an address to where the broker is now."""
        if self._whereabouts is None:
            return address
        try:
            now = read_address(self._whereabouts)
        except (OSError, ValueError) as error:
            log.warning("the host does not say where the broker is", extra={"why": str(error)})
            return address
        return msgspec.structs.replace(address, endpoints=now.endpoints, tls=now.tls, owner=now.owner)

    async def _credential(self, refused: bool) -> Address:
        if refused:
            await self._look_for_newer()
        kept = self._read()
        if kept is not None and not refused:
            return kept.address
        try:
            address = await self._trade(self.seed)
        except BrokerError as error:
            if kept is None:
                raise
            log.warning("no newer credential, the kept one again", extra={"why": str(error)})
            return kept.address
        # Whoever connects with it does not wait for the disk.
        self._fresh = KeptCredential(self.seed.vm, self.seed.generation, address)
        self._keep(self._fresh)
        return address

    def _keep(self, credential: KeptCredential) -> None:
        self._keeping = self._writers.spawn(self._write(credential), name="keep")

    async def _write(self, credential: KeptCredential) -> None:
        """Write it down, again and again where the disk does not take it, unless there is a newer one."""
        for wait_s in backoff(0.2, 10.0):
            async with self._writing:
                if credential is not self._fresh:
                    return
                try:
                    await asyncio.to_thread(durable.replace, self._file, msgspec.json.encode(credential))
                    return
                except OSError as error:
                    log.error("credential not written down yet", extra={"why": str(error)})
            await asyncio.sleep(wait_s)

    async def _look_for_newer(self) -> None:
        try:
            self.renew(await self._source.ask_newer())
        except OSError as error:
            log.warning("no seed to be had", extra={"why": str(error)})

    def _read(self) -> KeptCredential | None:
        if self._fresh is not None and self._is_of_now(self._fresh):
            return self._fresh
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=KeptCredential)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return kept if self._is_of_now(kept) else None

    def _is_of_now(self, kept: KeptCredential) -> bool:
        return (kept.vm, kept.generation) == (self.seed.vm, self.seed.generation)

    async def _trade(self, seed: Seed) -> Address:
        """Trade the one-time login for a credential. Raises NotEnrolled or a BrokerError; asked again it goes on."""
        login = Address(
            endpoints=seed.endpoints,
            tls=seed.tls,
            user=seed.login_user,
            password=seed.login_password,
            vhost=seed.vhost,
            owner=seed.owner,
        )
        connection = Connection(self._there(login), name=f"{seed.vm} enrol")
        try:
            await connection.open(patience_s=30.0)
            credential = await _ask(connection, seed)
        finally:
            # The next connection does not wait for the end of this one.
            self._closing.spawn(connection.close(), name="close")
        return msgspec.structs.replace(login, user=credential.user, password=credential.password)


async def _ask(connection: Connection, seed: Seed) -> Credential:
    answered: asyncio.Future[Credential] = asyncio.get_running_loop().create_future()

    def take(delivery: Delivery) -> None:
        letter = take_in(delivery)
        if isinstance(letter, Letter) and isinstance(letter.message, Credential) and not answered.done():
            answered.set_result(letter.message)

    await connection.consume_direct(take)
    trade = EnrolTrade(target="keys", generation=seed.generation)
    try:
        route = up(connection.user, "enrol")
        await publish(connection, route, trade, reply_to="amq.rabbitmq.reply-to", correlation_id=trade.id)
        async with asyncio.timeout(TRADE_TIMEOUT_S):
            return await answered
    except (TimeoutError, NotDelivered) as error:
        raise BrokerError("the key manager gave no credential for the one-time login") from error
