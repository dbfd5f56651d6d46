"""Grid sites that feed jobs into the queue: their logins, and their part of the machines' time.

Each method raises BadInput for a name that no site may have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from schemas.enrol import Credential, KeysDelete, KeysList, KeysListed, KeysMint
from schemas.envelope import Done
from schemas.owners import MAX_NAMED, OwnerList, OwnerRow, Owners, OwnerSet
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import Table, shown
from volcloud.errors import BadInput, NoSuchSite

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
#: Sites that an error lists.
MOST_NAMED = 10


class AsyncSites:
    """See the module."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def add(self, site: str) -> Credential:
        """Make a grid site's principal, or find it; give its login."""
        return shown(await self._session.centre.ask_keys(KeysMint(site=_checked(site)), Credential))

    async def delete(self, site: str) -> None:
        """Delete a grid site's principal with its queue; its login is refused from then on. Its jobs stay, and its
        share for the day on which it comes back."""
        await self._session.centre.ask_keys(KeysDelete(principal=f"site-{_checked(site)}"), Done)

    async def list(self) -> Table[OwnerRow]:
        """List all sites, and whoever else has jobs, by name: share, limit, and jobs by state."""
        sites = (await self._logins())[:MAX_NAMED]
        rows: Table[OwnerRow] = Table()
        page = await self._session.centre.ask(OwnerList(named=[*sites]), Owners)
        rows.extend(map(shown, page.owners))
        while page.next:
            page = await self._session.centre.ask(OwnerList(named=[*sites], after=page.next), Owners)
            rows.extend(map(shown, page.owners))
        return rows

    async def set(
        self,
        site: str,
        *,
        share: int | None = None,
        most_waiting: int | None = None,
        forget_most_waiting: bool = False,
    ) -> OwnerRow:
        """Set the share (1 to 1000) of a site, or how many of its jobs may wait; give what holds now. What is not said
        stays. ``site`` may be any owner that ``list`` names.

        With ``forget_most_waiting`` as many may wait as the job adapter's settings say. Raises NoSuchSite.
        """
        owner = await self._known(site)
        message = OwnerSet(owner=owner, share=share, most_waiting=most_waiting, forget_most_waiting=forget_most_waiting)
        page = await self._session.centre.ask(message, Owners)
        return shown(page.owners[0])

    async def _known(self, name: str) -> str:
        """Give the owner of jobs that is meant: a site by its name, or whoever has jobs or a login by its principal."""
        sites = await self._logins()
        if f"site-{name}" in sites:
            return f"site-{name}"
        owners = {row.owner for row in await self.list()}
        if name in owners:
            return name
        if f"site-{name}" in owners:
            return f"site-{name}"
        known = ", ".join(one.removeprefix("site-") for one in sites[:MOST_NAMED]) or "none"
        text = f"no site is called {name!r}; known: {known}{', …' * (len(sites) > MOST_NAMED)}"
        raise NoSuchSite(text, "`volcloud site list` shows sites and all who have jobs, `volcloud site add` makes one")

    async def _logins(self) -> Sequence[str]:
        return (await self._session.centre.ask_keys(KeysList(), KeysListed)).sites


class BlockingSites(Blocking[AsyncSites]):
    """See the module."""

    add = blocking(AsyncSites.add)
    delete = blocking(AsyncSites.delete)
    list = blocking(AsyncSites.list)
    set = blocking(AsyncSites.set)


def _checked(name: str) -> str:
    if not _SITE.fullmatch(name):
        raise BadInput(f"site {name!r}: must be a to z, 0 to 9 and '-' inside, at most 42 characters", "choose another")
    return name
