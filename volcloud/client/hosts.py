"""The hosts: volunteers' machines and grid nodes that run VMs."""

from __future__ import annotations

from schemas.ledger import HostList, HostRow, Hosts
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown


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


class BlockingHosts(Blocking[AsyncHosts]):
    """See the module."""

    list = blocking(AsyncHosts.list)
