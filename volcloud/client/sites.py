"""Grid sites that feed jobs into the queue: their logins.

Each method raises BadInput for a name that no site may have.
"""

from __future__ import annotations

import re

from schemas.enrol import Credential, KeysDelete, KeysMint
from schemas.envelope import Done
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import shown
from volcloud.errors import BadInput

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")


class AsyncSites:
    """See the module."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def add(self, site: str) -> Credential:
        """Make a grid site's principal, or find it; give its login."""
        return shown(await self._session.centre.ask_keys(KeysMint(site=_checked(site)), Credential))

    async def delete(self, site: str) -> None:
        """Delete a grid site's principal with its queue; its login is refused from then on, and its jobs stay."""
        await self._session.centre.ask_keys(KeysDelete(principal=f"site-{_checked(site)}"), Done)


class BlockingSites(Blocking[AsyncSites]):
    """See the module."""

    add = blocking(AsyncSites.add)
    delete = blocking(AsyncSites.delete)


def _checked(name: str) -> str:
    if not _SITE.fullmatch(name):
        raise BadInput(f"site {name!r}: must be a to z, 0 to 9 and '-' inside, at most 42 characters", "choose another")
    return name
