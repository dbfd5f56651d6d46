"""Asking every VM how it is, side by side: one whose hypervisor hangs delays nobody's answer.

A look that takes longer than it may goes on by itself, and meanwhile what was seen last is told; what it sees in the
end is told at once if it differs. How one VM is looked at is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from broker.daemon.tasks import OwnedTasks

T = TypeVar("T")

#: How long all looks together may hold up a report, seconds; QEMU answers in 2 ms, on a busy host in 100.
PATIENCE_S = 1.0
#: The same for VMs that have not been seen yet: of them there is nothing else to tell.
FIRST_PATIENCE_S = 5.0
#: What was seen last is told for this long while a look hangs, seconds; then the VM counts as one that cannot be asked.
STALE_S = 15.0


class _Look(Generic[T]):
    """What is known of one VM: the look that is under way, and what was seen last."""

    def __init__(self) -> None:
        self.task: asyncio.Task[T] | None = None
        self.began_s = 0.0
        self.seen: T | None = None


class Looks(Generic[T]):
    """See the module. ``on_late`` is called when a look that was waited for in vain has shown something new."""

    def __init__(
        self,
        look: Callable[[str], Coroutine[Any, Any, T]],
        on_late: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._on_late, self._clock = look, on_late, clock
        self._looks: dict[str, _Look[T]] = {}
        self._tasks = OwnedTasks("looks at VMs")

    async def all(self, vms: Iterable[str], in_place: Callable[[str], T]) -> list[T]:
        """Give what is seen of each VM; ``in_place`` makes up for one that has not been seen for too long.

        Raises nothing: ``look`` must not raise.
        """
        # This call's own: another one meanwhile may be about fewer VMs.
        looks = self._looks = {vm: self._looks.get(vm) or _Look() for vm in vms}
        fresh = [self._begin(vm, look) for vm, look in looks.items() if look.task is None]
        await self._wait_for_unseen(looks.values())
        await _wait(fresh, PATIENCE_S)
        return [self._told(vm, look, in_place) for vm, look in looks.items()]

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._tasks.cancel()

    async def _wait_for_unseen(self, looks: Iterable[_Look[T]]) -> None:
        """Wait for the first looks, whoever has begun them, for what is left of the patience with each."""
        unseen = [look for look in looks if look.seen is None and look.task is not None]
        left_s = [look.began_s + FIRST_PATIENCE_S - self._clock() for look in unseen]
        await _wait([look.task for look in unseen if look.task is not None], max([0.0, *left_s]))

    def _begin(self, vm: str, look: _Look[T]) -> asyncio.Task[T]:
        look.began_s = self._clock()
        look.task = self._tasks.spawn(self._look(vm), name=f"look at {vm}")
        look.task.add_done_callback(lambda task: self._ended(look, task))
        return look.task

    def _ended(self, look: _Look[T], task: asyncio.Task[T]) -> None:
        look.task = None
        if task.cancelled():
            return
        is_late, before = self._clock() - look.began_s > PATIENCE_S, look.seen
        look.seen = task.result()
        if is_late and look.seen != before:
            self._on_late()

    def _told(self, vm: str, look: _Look[T], in_place: Callable[[str], T]) -> T:
        hangs = look.task is not None and self._clock() - look.began_s > STALE_S
        return in_place(vm) if look.seen is None or hangs else look.seen


async def _wait(tasks: Iterable[asyncio.Task[T]], timeout_s: float) -> None:
    left = [task for task in tasks if not task.done()]
    if left:
        await asyncio.wait(left, timeout=timeout_s)
