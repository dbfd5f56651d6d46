"""The wall clock of a VM of ours: after it was paused or restored it is slow, and stays so unless somebody sets it.

Only for a guest that is root in a machine of its own; the clock of a volunteer's host is none of ours.
"""

from __future__ import annotations

import logging
import os
import time

log = logging.getLogger(__name__)

#: A clock that is off by less is left alone, seconds: what an answer's way takes is not known better.
NEAR_S = 2.0


def follow(server_time_ms: int) -> None:
    """Set the clock to the centre's time if it is off. Does nothing for an agent that is not root."""
    off_s = server_time_ms / 1000 - time.time()
    if abs(off_s) < NEAR_S or os.geteuid() != 0:
        return
    try:
        time.clock_settime(time.CLOCK_REALTIME, server_time_ms / 1000)
    except OSError as error:
        log.warning("clock not set", extra={"off_s": round(off_s, 1), "why": str(error)})
    else:
        log.info("clock set", extra={"by_s": round(off_s, 1)})
