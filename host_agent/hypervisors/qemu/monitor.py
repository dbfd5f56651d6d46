"""QEMU's monitor: commands and events in QMP, over a connection that is made again whenever it breaks.

Knows how to talk, and turns every way in which talking fails into HypervisorError; what is said is ``machine``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
from qemu.qmp import EventListener as QmpListener
from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate

from broker.road.streams import short_path
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import Watch
from host_agent.hypervisors.qemu.command import QEMU_LOG, QMP_SOCKET

log = logging.getLogger(__name__)

T = TypeVar("T")

#: An answer that takes longer means that QEMU hangs; 2 ms on an idle host.
ANSWER_TIMEOUT_S = 10.0
#: Between two tries to reach QEMU; the first come quickly since it is ready within 0.1 s.
_RETRY_S = (*(0.005 for _ in range(20)), 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

#: A QEMU that floods us with events is read this slowly, after so many at once: a guest that lives makes a few.
_EVENT_S, _MOST_AT_ONCE = 0.01, 100
#: What is held of its words until they are read; an answer is a few KiB.
_MOST_BYTES = 1 << 20

#: Stands among QMP's events for a new connection: what happened before it was not heard.
CONNECTED = "CONNECTED"

#: Called with a QMP event's name and data.
EventListener = Callable[[str, dict[str, Any]], None]


class Monitor:
    """The monitor of the QEMU in ``home``, whose process ``watch`` sees. ``run`` for as long as it lives."""

    def __init__(self, home: Path, watch: Watch, on_event: EventListener) -> None:
        self._home, self._watch, self._on_event = home, watch, on_event
        self._qmp = QMPClient(home.name)
        self._events = _PacedEvents(on_event)
        self._is_connected = asyncio.Event()

    async def run(self) -> NoReturn:
        """Keep connected and hand over events, ``CONNECTED`` first; until cancelled."""
        tries = 0
        while True:
            began_s = asyncio.get_running_loop().time()
            try:
                await self._connect()
                self._on_event(CONNECTED, {})
                while self._qmp.runstate is Runstate.RUNNING:
                    await self._qmp.runstate_changed()
            except Exception as error:  # noqa: BLE001  whatever a broken QEMU's words make the library raise
                log.debug("qmp_not_connected vm=%s error=%s", self._home.name, error)
            finally:
                self._is_connected.clear()
                await self._disconnect()
            await asyncio.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
            # One that ends every connection at once is not come to more often than one that takes none.
            tries = 0 if asyncio.get_running_loop().time() - began_s > 2 * _RETRY_S[-1] else tries + 1

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until QEMU takes commands; raise HypervisorError if it ends or does not answer in time."""
        ended = asyncio.ensure_future(self._watch.wait())
        connected = asyncio.ensure_future(self._is_connected.wait())
        await asyncio.wait({ended, connected}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        connected.cancel()
        if not self._is_connected.is_set():
            raise HypervisorError(f"QEMU does not answer, or ended: {last_words(self._home)}")

    async def execute(
        self, command: str, arguments: dict[str, object] | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Any:
        """Run a QMP command. Raises HypervisorError with QEMU's words, also if it does not answer in time."""
        await self.wait_connected(ANSWER_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._qmp.execute(command, arguments)
        except ExecuteError as error:
            raise HypervisorError(f"QEMU refuses {command}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            raise HypervisorError(f"QEMU was lost during {command}: {error}") from error
        except TimeoutError as error:
            raise HypervisorError(f"QEMU did not answer {command} within {timeout_s} s") from error
        except Exception as error:
            raise HypervisorError(f"QEMU's answer to {command} is not QMP: {error!r}") from error

    async def ask(
        self,
        command: str,
        answer: type[T],
        arguments: dict[str, object] | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> T:
        """Run a QMP command as ``execute`` does, and give its answer as that type. Raises HypervisorError, also if it
        is none: a QEMU that was broken into says what it likes."""
        told = await self.execute(command, arguments, timeout_s=timeout_s)
        try:
            return msgspec.convert(told, answer)
        except msgspec.ValidationError as error:
            raise HypervisorError(f"QEMU's answer to {command} is of no use: {error}") from error

    async def pass_file(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file under a name that ``fd:`` addresses know."""
        await self.wait_connected(ANSWER_TIMEOUT_S)
        self._qmp.send_fd_scm(descriptor)
        await self.execute("getfd", {"fdname": name})

    async def add_file(self, files: int, descriptor: int) -> None:
        """Give QEMU an open file as the one of a set, which ``/dev/fdset/`` names; ``remove-fd`` takes it back."""
        await self.wait_connected(ANSWER_TIMEOUT_S)
        self._qmp.send_fd_scm(descriptor)
        await self.execute("add-fd", {"fdset-id": files})

    async def _connect(self) -> None:
        self._qmp = QMPClient(self._home.name)
        # Its own log repeats every broken connection as an error; ours says what follows from it.
        self._qmp.logger.setLevel(logging.CRITICAL)
        self._qmp.readbuflen = _MOST_BYTES
        # The library's own listener keeps all that it hears for ever.
        self._qmp.events.event_filter = lambda event: False
        self._qmp.register_listener(self._events)
        with short_path(self._home / QMP_SOCKET) as path:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._qmp.connect(path)
        self._is_connected.set()

    async def _disconnect(self) -> None:
        # What broke the connection is raised here again, whatever it is; it is known by now.
        with contextlib.suppress(Exception):
            await self._qmp.disconnect()


class _PacedEvents(QmpListener):
    """Hands events over as they are read, and has whoever reads them wait where they are too many: none is kept."""

    def __init__(self, on_event: EventListener) -> None:
        super().__init__()
        self._on_event = on_event
        self._read_until_s = 0.0

    async def put(self, event: Message) -> None:
        """See the library."""
        data = event.get("data", {})
        self._on_event(str(event["event"]), data if isinstance(data, dict) else {})
        now_s = asyncio.get_running_loop().time()
        self._read_until_s = max(self._read_until_s, now_s - _MOST_AT_ONCE * _EVENT_S) + _EVENT_S
        if self._read_until_s > now_s:
            await asyncio.sleep(self._read_until_s - now_s)


def new_set() -> int:
    """Give the number of a set of files that is nobody else's: of one that was given up a file may still be in use."""
    return secrets.randbelow(1 << 30) + 1


def last_words(home: Path) -> str:
    """Give the end of what the QEMU in ``home`` printed."""
    try:
        return (home / QEMU_LOG).read_text(errors="replace")[-500:].strip() or "it printed nothing"
    except OSError as error:
        return f"its log cannot be read: {error}"
