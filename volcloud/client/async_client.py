"""The client for asyncio. ``volcloud.client.blocking_client`` has the blocking twin. Nothing is printed here."""

from __future__ import annotations

from pathlib import Path

from broker.address import Address
from volcloud.client.agents import AsyncAgents
from volcloud.client.execs import AsyncExecs
from volcloud.client.files import AsyncFiles
from volcloud.client.hosts import AsyncHosts
from volcloud.client.jobs import AsyncJobs
from volcloud.client.session import ClientSession
from volcloud.client.sites import AsyncSites
from volcloud.client.sources import AsyncSources
from volcloud.client.trees import AsyncTrees
from volcloud.client.vms import AsyncVms
from volcloud.client.watched_transfers import Say, say_nothing
from volcloud.data_directory import console_address


class AsyncClient:
    """A client for asyncio with a connection of its own, which belongs to the loop that opened it.

    Raises, everywhere: Unreachable (no broker, no answer), ClientNotOpen (before ``open``, after ``close``),
    RemoteError (the other side says no, with a code), CallTimeout (an agent is silent), and what each method names.
    """

    vms: AsyncVms
    jobs: AsyncJobs
    files: AsyncFiles
    trees: AsyncTrees
    execs: AsyncExecs
    hosts: AsyncHosts
    sites: AsyncSites
    sources: AsyncSources
    agents: AsyncAgents

    def __init__(self, address: Address, say: Say = say_nothing) -> None:
        """Prepare a client; ``open`` connects it. ``say`` tells a person what is waited for, in the client's loop."""
        self._session = ClientSession(address, say)
        self.hosts = AsyncHosts(self._session)
        self.sites = AsyncSites(self._session)
        self.sources = AsyncSources(self._session)
        self.vms = AsyncVms(self._session, self.hosts)
        self.files = AsyncFiles(self._session, self.vms)
        self.trees = AsyncTrees(self._session, self.vms)
        self.execs = AsyncExecs(self._session, self.vms)
        self.jobs = AsyncJobs(self._session)
        self.agents = AsyncAgents(self._session, self.vms)

    @classmethod
    async def connect(cls, data: Path | str | None = None, say: Say = say_nothing) -> AsyncClient:
        """Connect to the system of a data directory: this one, VOLCLOUD_DATA, or the user's. Raises Unreachable."""
        client = cls(console_address(data), say)
        await client.open()
        return client

    async def open(self) -> None:
        """Connect; call once. Raises Unreachable."""
        await self._session.open()

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session}>"

    @property
    def user(self) -> str:
        """The principal that this client is; the owner of what it submits."""
        return self._session.user
