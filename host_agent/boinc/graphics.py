"""The state of a task for a program that shows it: ``graphics_status.xml``, once a second."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from broker import durable
from host_agent.boinc.app_status import AppStatus
from host_agent.boinc.client_will import ClientWill
from host_agent.boinc.slot_files import GRAPHICS_STATUS

EVERY_S = 1.0


class Graphics:
    """See the module. A disk that takes none has no picture, and nothing worse."""

    def __init__(self, slot: Path) -> None:
        self._path = slot / GRAPHICS_STATUS
        self._written_s = -EVERY_S

    def write(self, status: AppStatus, elapsed_s: float, will: ClientWill) -> None:
        """Write it, if it is time to."""
        now_s = time.monotonic()
        if now_s - self._written_s >= EVERY_S:
            self._written_s = now_s
            with contextlib.suppress(OSError):
                durable.replace(self._path, _rendered(status, elapsed_s, will).encode(), mode=0o644)


def _rendered(status: AppStatus, elapsed_s: float, will: ClientWill) -> str:
    flags = {
        "no_heartbeat": will.is_gone,
        "suspended": will.is_suspended,
        "quit_request": will.is_quitting,
        "abort_request": will.is_aborting,
        "network_suspended": will.is_network_suspended,
    }
    return (
        "<graphics_status>\n"
        f"<updated_time>{time.time():f}</updated_time>\n"
        f"<cpu_time>{status.cpu_s:f}</cpu_time>\n"
        f"<elapsed_time>{elapsed_s:f}</elapsed_time>\n"
        f"<fraction_done>{status.fraction_done:f}</fraction_done>\n"
        "<boinc_status>\n"
        + "".join(f"<{name}>{int(value)}</{name}>\n" for name, value in flags.items())
        + "</boinc_status>\n</graphics_status>\n"
    )
