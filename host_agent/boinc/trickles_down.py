"""Trickles down for the job of a guest: files that the client lays into the slot, and that go on into the guest."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from host_agent.boinc.slot_files import TRICKLE_DOWN
from host_agent.own_centre.heard_job import HeardJob
from schemas.jobs import MOST_OF_TOLD_BYTES

log = logging.getLogger(__name__)


class TricklesDown:
    """See the module. ``step`` now and then: what lies in the slot is found also where the client's word was lost."""

    def __init__(self, slot: Path, heard: HeardJob) -> None:
        self._slot, self._heard = slot, heard
        self._told: set[str] = set()

    def step(self) -> None:
        """Hand on what has come. Raises OSError."""
        for path in sorted(self._slot.glob(f"{TRICKLE_DOWN}*")):
            if not self._heard.has(path.name) and path.is_file() and not path.is_symlink():
                self._hand(path)

    def kept(self) -> None:
        """The guest is kept as it is: remove what it has by now. Before that it could go back to a time before it had
        them."""
        for path in self._slot.glob(f"{TRICKLE_DOWN}*"):
            if self._heard.has(path.name):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _hand(self, path: Path) -> None:
        if path.stat().st_size <= MOST_OF_TOLD_BYTES:
            self._heard.hand(path.name, path.read_bytes())
        elif path.name not in self._told:
            self._told.add(path.name)
            log.warning("%s has more than %d bytes: the guest is not handed it", path.name, MOST_OF_TOLD_BYTES)
