"""Which change of a VM is news: one that no verb of ours has caused. Pure; the drivers do, hear and tell.

What a driver does and sees of one life of a VM, from the start or adoption of its process to its end, goes in; the
state that is to be told to the driver's listener comes out, or None where it is no news.
"""

from __future__ import annotations

from schemas.vms import VmState


class News:
    """One life of a VM. While a verb is at work, what is seen is its doing, but for an end that it did not mean."""

    def __init__(self) -> None:
        self._is_busy = False
        self._has_ended = False
        self._after_end = VmState.ABORTED
        #: The state last told or caused; None where nobody has looked yet: the first look is no news.
        self._known: VmState | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a verb is at work."""
        return self._is_busy

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._has_ended

    @property
    def after_end(self) -> VmState:
        """What the VM is once its process has ended."""
        return self._after_end

    def begin(self) -> None:
        """A verb is at work from now on. Idempotent."""
        self._is_busy = True

    def caused(self, state: VmState) -> None:
        """The verb has brought the VM into ``state``."""
        self._known = state

    def will_end(self, after_end: VmState) -> None:
        """The process is made to end, or the guest has ended by itself: the VM is ``after_end`` then."""
        self._after_end = after_end

    def lives_on(self) -> None:
        """The process was to end and has not: from now on its end is a crash again. Nothing once it has ended."""
        if not self._has_ended:
            self._after_end = VmState.ABORTED

    def finish(self) -> VmState | None:
        """The verb has ended. An end of the process that it did not mean is news."""
        self._is_busy = False
        return VmState.ABORTED if self._has_ended and self._after_end is VmState.ABORTED else None

    def sees(self, state: VmState) -> VmState | None:
        """The VM is seen in ``state``. ``unknown`` is no news: it says nothing of the VM."""
        if self._is_busy or state in (self._known, VmState.UNKNOWN):
            return None
        is_first, self._known = self._known is None, state
        return None if is_first else state

    def ends(self) -> VmState | None:
        """The process has ended. A VM that is saved then is no news: nobody but a verb saves one."""
        self._has_ended = True
        return None if self._is_busy or self._after_end is VmState.SAVED else self._after_end
