"""Sources: grids from which jobs are fetched, each by an adapter of its own."""

from __future__ import annotations

from broker.errors import RemoteError
from schemas.errors import ErrorCode
from schemas.grids import SourceDelete, SourceList, SourceRetry, SourceRow, Sources
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown
from volcloud.errors import CommandFailed, NoSuchSource


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
        """Have all of a source tried again at once that has failed: ends that it is to be told, also those that wait
        for a person, and jobs on their way here. Gives how it is then, ``retried`` how many. Raises NoSuchSource."""
        page = await self._ask(SourceRetry(source=source))
        return shown(page.sources[0])

    async def delete(self, source: str, *, give_up: bool = False) -> None:
        """Forget a source that has no adapter any more, and no job here that waits or runs. With ``give_up`` its grid
        is not told what it has not been told yet, nor of what it has given and is no job here; its jobs stay.

        Raises NoSuchSource; CommandFailed where it has an adapter, or something is left of it.
        """
        while (await self._ask(SourceDelete(source=source, give_up=give_up))).sources:
            pass  # a portion is gone, and there is more

    async def _ask(self, message: SourceRetry | SourceDelete) -> Sources:
        try:
            return await self._session.centre.ask(message, Sources)
        except RemoteError as error:
            if error.code is ErrorCode.NOT_FOUND:
                raise NoSuchSource(error.message, error.hint) from error
            if error.code is ErrorCode.ILLEGAL_STATE:
                raise CommandFailed(error.message, error.hint) from error
            raise


class BlockingSources(Blocking[AsyncSources]):
    """See the module."""

    list = blocking(AsyncSources.list)
    retry = blocking(AsyncSources.retry)
    delete = blocking(AsyncSources.delete)
