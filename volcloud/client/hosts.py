"""The hosts: volunteers' machines and grid nodes that run VMs."""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import RemoteError
from schemas.errors import ErrorCode
from schemas.events import HostDetails, HostShow
from schemas.ledger import HostList, HostRow, Hosts
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown
from volcloud.errors import NoSuchHost

#: Hosts that an error lists.
MOST_NAMED = 10


class AsyncHosts:
    """See the module."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def list(self) -> Table[HostRow]:
        """List the hosts that the centre knows, by id."""
        rows: Table[HostRow] = Table()
        page = await self._session.centre.ask(HostList(), Hosts)
        rows.extend(map(shown, page.hosts))
        while page.next:
            page = await self._session.centre.ask(HostList(after=page.next), Hosts)
            rows.extend(map(shown, page.hosts))
        return rows

    async def show(self, host: str) -> HostDetails:
        """Give all that the centre knows of one host, by its id or its name. Raises NoSuchHost, also for several."""
        try:
            return shown(await self._session.centre.ask(HostShow(host=host), HostDetails))
        except RemoteError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
        found = [row for row in await self.list() if host == row.facts.hostname]
        if len(found) != 1:
            raise await self._no_such(host, [row.host for row in found])
        return shown(await self._session.centre.ask(HostShow(host=found[0].host), HostDetails))

    async def _no_such(self, host: str, found: Sequence[str]) -> NoSuchHost:
        if found:
            return NoSuchHost(f"{len(found)} hosts are called {host!r}: {_named(found)}", "give the id of one")
        known = _named([row.host for row in await self.list()])
        return NoSuchHost(f"no host is called {host!r}; known: {known}", "`volcloud host list` shows them")


class BlockingHosts(Blocking[AsyncHosts]):
    """See the module."""

    list = blocking(AsyncHosts.list)
    show = blocking(AsyncHosts.show)


def _named(hosts: Sequence[str]) -> str:
    """Name some of them."""
    return ", ".join([*hosts[:MOST_NAMED], *(["…"] if len(hosts) > MOST_NAMED else [])]) or "none"
