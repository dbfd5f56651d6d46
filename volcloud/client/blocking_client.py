"""The blocking client: ``AsyncClient`` in a loop of its own, in a thread of its own."""

from __future__ import annotations

from pathlib import Path

from broker.address import Address
from volcloud.client.agents import BlockingAgents
from volcloud.client.async_client import AsyncClient
from volcloud.client.execs import BlockingExecs
from volcloud.client.files import BlockingFiles
from volcloud.client.hosts import BlockingHosts
from volcloud.client.jobs import BlockingJobs
from volcloud.client.sites import BlockingSites
from volcloud.client.sources import BlockingSources
from volcloud.client.trees import BlockingTrees
from volcloud.client.vms import BlockingVms
from volcloud.client.watched_transfers import Say, say_nothing
from volcloud.data_directory import console_address
from volcloud.loop_thread import LoopThread


class Client:
    """A blocking client with a connection of its own. Use it as a context manager, or ``close`` it.

    Raises what ``AsyncClient`` does. Progress callbacks run in the client's thread and must return at once.
    """

    vms: BlockingVms
    jobs: BlockingJobs
    files: BlockingFiles
    trees: BlockingTrees
    execs: BlockingExecs
    hosts: BlockingHosts
    sites: BlockingSites
    sources: BlockingSources
    agents: BlockingAgents

    def __init__(self, address: Address, say: Say = say_nothing) -> None:
        """Connect as the principal of ``address``. ``say`` tells a person what is waited for, in the client's thread.

        Raises Unreachable."""
        self._thread = LoopThread("volcloud client")
        self._client = AsyncClient(address, say)
        try:
            self._thread.wait_for(self._client.open())
        except BaseException:
            self.close()
            raise
        self.hosts = BlockingHosts(self._client.hosts, self._thread)
        self.sites = BlockingSites(self._client.sites, self._thread)
        self.sources = BlockingSources(self._client.sources, self._thread)
        self.vms = BlockingVms(self._client.vms, self._thread)
        self.files = BlockingFiles(self._client.files, self._thread)
        self.trees = BlockingTrees(self._client.trees, self._thread)
        self.execs = BlockingExecs(self._client.execs, self._thread)
        self.jobs = BlockingJobs(self._client.jobs, self._thread)
        self.agents = BlockingAgents(self._client.agents, self._thread)

    @classmethod
    def connect(cls, data: Path | str | None = None, say: Say = say_nothing) -> Client:
        """Connect to the system of a data directory: this one, VOLCLOUD_DATA, or the user's. Raises Unreachable."""
        return cls(console_address(data), say)

    def close(self) -> None:
        """Disconnect; a call that another thread waits for ends with Disconnected. Idempotent."""
        self._thread.close(self._client.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._client).replace("Async", "", 1)

    @property
    def user(self) -> str:
        """The principal that this client is; the owner of what it submits."""
        return self._client.user
