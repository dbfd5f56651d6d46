"""Sources: grids from which jobs are fetched, each by an adapter of its own."""

from __future__ import annotations

from broker.errors import RemoteError
from schemas.errors import ErrorCode
from schemas.grids import SourceList, SourceRetry, SourceRow, Sources
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown
from volcloud.errors import NoSuchSource


class AsyncSources:
    """See the module."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def list(self) -> Table[SourceRow]:
        """List the sources, by name: when each gave jobs, what it is to be told, and what is wrong since when."""
        page = await self._session.centre.ask(SourceList(), Sources)
        rows: Table[SourceRow] = Table()
        rows.extend(map(shown, page.sources))
        return rows

    async def retry(self, source: str) -> SourceRow:
        """Have a source told again of all ends that wait for a person; give how it is then. Raises NoSuchSource."""
        try:
            page = await self._session.centre.ask(SourceRetry(source=source), Sources)
        except RemoteError as error:
            if error.code is ErrorCode.NOT_FOUND:
                raise NoSuchSource(error.message, "`volcloud source list` shows them") from error
            raise
        return shown(page.sources[0])


class BlockingSources(Blocking[AsyncSources]):
    """See the module."""

    list = blocking(AsyncSources.list)
    retry = blocking(AsyncSources.retry)
