"""What goes to BOINC's client by files: trickles up, one after another, and outputs that are to be uploaded at once.

The client names a trickle by the second in which it takes it, and one that is laid down before the last was taken
replaces that one. So the next comes when the last is gone, and a second has passed.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

from broker import durable
from host_agent.boinc.channels import Channel, Memory, send
from host_agent.boinc.slot_files import TRICKLE_UP, UPLOAD_NOW, trickle_text

log = logging.getLogger(__name__)

#: Between two trickles, seconds.
APART_S = 1.1
#: Trickles, and uploads, that wait: a client that takes none gets no more.
MOST_WAITING = 100

_TRICKLE, _UPLOAD = "<have_new_trickle_up/>\n", "<have_new_upload_file/>\n"


class Outgoing:
    """See the module. Filled by one thread and emptied, a ``step`` at a time, by another."""

    def __init__(self, slot: Path) -> None:
        self._slot = slot
        self._trickles: deque[tuple[str, str]] = deque()
        self._uploads: deque[str] = deque()
        #: What has been laid down, here or by who was here before us, and the client has not been told.
        self._untold = {_TRICKLE} if (slot / TRICKLE_UP).exists() else set()
        self._taken_s: float | None = None
        #: Trickles that were given here, and those that the client has taken, or that are lost; what lies may be of
        #: somebody before us.
        self._given = self._gone = 0
        self._is_ours = False
        self._is_lying = bool(self._untold)

    @property
    def is_idle(self) -> bool:
        """Whether the client has taken all."""
        return not (self._trickles or self._uploads or self._untold or self._is_lying)

    def trickle(self, variety: str, body: str) -> int:
        """Send a trickle up, after those before it; give its number. Where too many wait, the oldest goes."""
        self._trickles.append((variety, body))
        self._given += 1
        while len(self._trickles) > MOST_WAITING:
            log.warning("the client does not take trickles: one is lost")
            self._trickles.popleft()
            self._gone += 1
        return self._given

    def is_taken(self, number: int) -> bool:
        """Whether the client has taken a trickle, or it was lost."""
        return self._gone >= number

    def upload(self, name: str) -> None:
        """Have an output uploaded before the end, by its logical name; once where it is asked for again meanwhile."""
        if name not in self._uploads and len(self._uploads) < MOST_WAITING:
            self._uploads.append(name)

    def step(self, memory: Memory, now_s: float) -> None:
        """Lay down and tell what can be. Raises OSError where the disk takes nothing: it is tried again then."""
        if self._untold and send(memory, Channel.TRICKLE_UP, "".join(sorted(self._untold))):
            self._untold = set()
        if self._is_lying and not (self._slot / TRICKLE_UP).exists():
            self._is_lying, self._taken_s = False, now_s
            self._gone += self._is_ours
            self._is_ours = False
        if self._trickles and not self._is_lying and (self._taken_s is None or now_s - self._taken_s >= APART_S):
            durable.replace(self._slot / TRICKLE_UP, trickle_text(*self._trickles[0]).encode(), mode=0o644)
            self._trickles.popleft()
            self._is_lying = self._is_ours = True
            self._untold.add(_TRICKLE)
        if self._uploads:
            durable.replace(self._slot / f"{UPLOAD_NOW}{self._uploads[0]}", b"", mode=0o644)
            self._uploads.popleft()
            self._untold.add(_UPLOAD)
