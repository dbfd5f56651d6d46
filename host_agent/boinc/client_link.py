"""Speaks with BOINC's client in a thread of its own: nothing that a task or a hypervisor does holds it up.

What the client wants is read ten times a second; what we are is said once a second. Source: ``api/boinc_api.cpp``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from host_agent.boinc.app_status import AppStatus
from host_agent.boinc.channels import Channel, Memory, receive, send
from host_agent.boinc.client_will import ClientWill
from host_agent.boinc.outgoing import Outgoing

log = logging.getLogger(__name__)

#: Between two looks at what the client wants, and two words of ours, seconds.
LOOK_S, SAY_S = 0.1, 1.0
#: How often it is looked whether the client lives; how long one of which no process is known may be silent, seconds.
LIFE_S, SILENCE_S = 10.0, 30.0
#: How long the last word may take to be taken, seconds.
LAST_WORD_S = 2.0


class ClientLink:
    """See the module. ``memory`` None: there is no client. ``on_change`` is called in the thread."""

    def __init__(self, slot: Path, memory: Memory | None, client_pid: int, on_change: Callable[[], None]) -> None:
        self._memory, self._client_pid = memory, client_pid
        self.outgoing = Outgoing(slot)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._will, self._status = ClientWill(), AppStatus()
        self._shown: list[str] = []
        self._ending = threading.Event()
        self._said_s = self._lived_s = 0.0
        self._trouble = ""
        self._heard_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="BOINC", daemon=True)

    def start(self) -> None:
        """Begin to speak."""
        self._thread.start()

    @property
    def has_client(self) -> bool:
        """There is somebody to speak with."""
        return self._memory is not None

    @property
    def will(self) -> ClientWill:
        """What the client wants now."""
        with self._lock:
            return msgspec.structs.replace(self._will)

    def quit(self) -> None:
        """Somebody else than the client wants us to end: a person, by a signal."""
        with self._lock:
            self._will.is_quitting = True
        self._on_change()

    def say(self, status: AppStatus) -> None:
        """Say this of us, from now on."""
        with self._lock:
            self._status = msgspec.structs.replace(status)

    def show(self, page: int | None, screen: int | None) -> None:
        """Tell the client at which ports of this computer the volunteer may look at a page, and at a screen."""
        words = [f"<web_graphics_url>http://localhost:{page}</web_graphics_url>"] if page is not None else []
        words += [f"<remote_desktop_addr>localhost:{screen}</remote_desktop_addr>"] if screen is not None else []
        with self._lock:
            self._shown = words

    def close(self) -> None:
        """Say the last word, wait a moment until it is taken, with what was to be sent, and end."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_WORD_S + 5 * LOOK_S)

    def _run(self) -> None:
        while not self._ending.wait(LOOK_S):
            try:
                self._step(time.monotonic())
            except Exception as error:  # noqa: BLE001  whatever it is, the client is to be heard further
                self._tell(repr(error))
        deadline, is_said = time.monotonic() + LAST_WORD_S, self._say()
        while time.monotonic() < deadline and not (is_said and self.outgoing.is_idle):
            time.sleep(LOOK_S)
            is_said = is_said or self._say()
            self._send_files(time.monotonic())

    def _step(self, now_s: float) -> None:
        before = self.will
        self._hear(now_s)
        self._look_for_client(now_s)
        if now_s - self._said_s >= SAY_S:
            self._said_s = now_s
            if not self.will.is_suspended:
                self._say()
            self._send_files(now_s)
            self._show()
        if self.will != before:
            self._on_change()

    def _hear(self, now_s: float) -> None:
        if self._memory is None:
            return
        for channel, hear in (
            (Channel.CONTROL_REQUEST, self._will.hear_control),
            (Channel.HEARTBEAT, self._will.hear_heartbeat),
            (Channel.TRICKLE_DOWN, self._will.hear_trickle_down),
        ):
            text = receive(self._memory, channel)
            if text is not None:
                self._heard_s = now_s
                with self._lock:
                    hear(text)

    def _look_for_client(self, now_s: float) -> None:
        if self._memory is None or now_s - self._lived_s < LIFE_S:
            return
        self._lived_s = now_s
        is_there = _is_alive(self._client_pid) if self._client_pid else now_s - self._heard_s < SILENCE_S
        if not is_there:
            with self._lock:
                self._will.is_gone = True

    def _say(self) -> bool:
        if self._memory is None:
            return True
        with self._lock:
            text = self._status.render()
        return send(self._memory, Channel.APP_STATUS, text)

    def _show(self) -> None:
        with self._lock:
            if self._memory is not None and self._shown and send(self._memory, Channel.GRAPHICS_REPLY, self._shown[0]):
                self._shown.pop(0)

    def _send_files(self, now_s: float) -> None:
        """Lay down what is to be sent; what the disk does not take is tried again, and told once."""
        if self._memory is None:
            return
        trouble = ""
        try:
            self.outgoing.step(self._memory, now_s)
        except OSError as error:
            trouble = str(error)
        self._tell(trouble)

    def _tell(self, trouble: str) -> None:
        """Tell a person of trouble with the client, once."""
        if trouble != self._trouble:
            log.warning("what goes to the client waits: %s", trouble or "no more")
        self._trouble = trouble


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
