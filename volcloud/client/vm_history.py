"""What the centre knows of VMs beyond their list: one whole, and what happened to them and their hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from schemas.events import MAX_EVENTS, Event, Events, VmDetails, VmShow
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.events import EventGap, OnTrouble, blocking_follow, event_list, follow
from volcloud.client.shown import shown
from volcloud.client.vm_part import AsyncVmPart

H = TypeVar("H", bound="AsyncVmHistory", covariant=True)


class AsyncVmHistory(AsyncVmPart):
    """What ``AsyncVms`` has of what happened."""

    async def show(self, vm: str) -> VmDetails:
        """Give all that the centre knows of one VM, and what happened to it last."""
        row = await self.get(vm)
        return shown(await self._session.centre.ask(VmShow(vm=row.status.vm), VmDetails))

    async def events(
        self, pattern: str = "*", *, after: int = 0, since_ms: int = 0, newest: int = 0, limit: int = MAX_EVENTS
    ) -> Events:
        """Give a page of what happened to VMs and hosts whose name or id fits a shell pattern: those after a number,
        and since a time, or so many of the newest. Ask on with ``after=page.next`` until that is ``page.last``; what a
        page with ``removed`` above your ``after`` should have held may be kept no longer. Raises BadInput."""
        asked = {"after": after, "since_ms": since_ms, "newest": newest, "limit": limit}
        return shown(await self._session.centre.ask(event_list(pattern, asked), Events))

    def follow(
        self,
        pattern: str = "*",
        *,
        after: int | None = None,
        since_ms: int = 0,
        on_trouble: OnTrouble | None = None,
    ) -> AsyncIterator[Event | EventGap]:
        """Give what happens as it happens, each event once, in order: those after a number; None: from now on. An
        EventGap stands where some are kept no longer. It goes on while the centre is away, which ``on_trouble`` is
        told, and until whoever iterates ends it. Raises BadInput."""
        event_list(pattern, {"after": after or 0, "since_ms": since_ms})
        _ = self._session.caller  # whoever is not connected hears of it now
        return follow(self._session, pattern, after, since_ms, on_trouble)


class BlockingVmHistory(Blocking[H]):
    """Its twin."""

    show = blocking(AsyncVmHistory.show)
    events = blocking(AsyncVmHistory.events)

    def follow(
        self,
        pattern: str = "*",
        *,
        after: int | None = None,
        since_ms: int = 0,
        on_trouble: OnTrouble | None = None,
    ) -> Iterator[Event | EventGap]:
        """Give what happens as it happens, each event once, in order: those after a number; None: from now on. An
        EventGap stands where some are kept no longer. It goes on while the centre is away, which ``on_trouble`` is
        told, and until whoever iterates ends it. Raises BadInput."""
        following = self._twin.follow(pattern, after=after, since_ms=since_ms, on_trouble=on_trouble)
        return blocking_follow(self._thread, following)
