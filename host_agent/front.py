"""The agent's own door on its host: a unix socket, for the host's owner alone, that works without the centre.

Who comes in speaks as the host. What he says to a VM is passed on by its local road, and what the guest answers comes
back to the one whom it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.backoff import backoff
from broker.errors import Disconnected, Unroutable
from broker.inbound import recall
from broker.road import ByteStream, Connect, Road
from broker.road.streams import joined, listen, to_socket
from broker.routes import DOWN, UP, reply
from host_agent.guests import Guests
from schemas.errors import DecodeError
from schemas.ids import Kind
from schemas.road import Say

log = logging.getLogger(__name__)

#: The socket, in the agent's directory.
SOCKET = "agent.sock"
#: Owners that may be in at a time.
MOST_VISITORS = 16
#: Reply queues that one of them may have.
MOST_KEYS = 64
#: Longest wait before a door that could not be made is tried again, seconds.
AGAIN_MOST_S = 60.0
#: How long the agent may take to answer its owner, seconds.
ANSWER_S = 8.0


class Front:
    """See the module. ``run`` until cancelled."""

    def __init__(self, directory: Path, me: str, guests: Guests) -> None:
        self._path, self._me, self._guests = directory / SOCKET, me, guests
        self._visitors: dict[asyncio.Task[None], Road] = {}
        #: Who waits for what comes under a key, which has a visitor's own random end.
        self._takers: dict[str, Road] = {}
        guests.otherwise = self._to_visitor

    async def run(self) -> None:
        """Let the owner in until cancelled. A socket that cannot be made, on a full disk say, is tried again."""
        server = await self._opened()
        mine = self._inode()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            self._remove(mine)
            for task in list(self._visitors):
                task.cancel()
            await asyncio.gather(*self._visitors, return_exceptions=True)

    def _inode(self) -> int:
        """Say which file the door is; 0 where its directory has just gone, which is somebody else's to find."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_ino
        return 0

    async def _opened(self) -> asyncio.Server:
        for wait_s in backoff(1.0, AGAIN_MOST_S):
            try:
                return await listen(self._path, self._on_visitor)
            except OSError as error:
                log.error(
                    "no door for this host's owner, again soon", extra={"path": str(self._path), "why": str(error)}
                )
            await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _remove(self, mine: int) -> None:
        """Remove our door; by now the directory may be another one, with another agent's."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == mine:
                self._path.unlink()

    def _on_visitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = joined(reader, writer)
        if len(self._visitors) >= MOST_VISITORS:
            stream.close()
            return
        leaves = asyncio.Event()
        road = Road(
            _once(stream, leaves), user=self._me, peer=self._me, otherwise=lambda said: self._to_guest(road, said)
        )
        task = asyncio.ensure_future(_host(road, leaves))
        self._visitors[task] = road
        task.add_done_callback(self._on_left)

    async def _to_guest(self, road: Road, said: Say) -> None:
        kind, _, rest = said.key.removesuffix(".files").partition(".")
        if said.exchange != DOWN or kind != Kind.VM:
            raise Unroutable(f"{said.key}: only the VMs of this host are reached here")
        vm = f"{kind}-{rest}"
        self._note_taker(road, vm, said)
        await self._guests.pass_on(vm, said)

    def _note_taker(self, road: Road, vm: str, said: Say) -> None:
        """Note to whom the answers to a message go: it names the end of its sender's reply queue."""
        try:
            suffix = recall(said.body).reply
        except DecodeError:
            return  # the guest will refuse it
        if suffix and sum(taker is road for taker in self._takers.values()) < MOST_KEYS:
            self._takers[reply(vm, self._me, suffix).key] = road

    async def _to_visitor(self, said: Say) -> None:
        road = self._takers.get(said.key)
        if road is None:
            raise Unroutable("nobody waits for that here")
        await road.publish(said.exchange, said.key, said.body, message_id=said.message_id)

    def _on_left(self, task: asyncio.Task[None]) -> None:
        road = self._visitors.pop(task)
        self._takers = {key: taker for key, taker in self._takers.items() if taker is not road}


def _once(stream: ByteStream, leaves: asyncio.Event) -> Connect:
    """Give the stream that came; when it is asked for another, the visitor has left."""
    streams = [stream]

    async def connect() -> ByteStream:
        if streams:
            return streams.pop()
        leaves.set()
        await asyncio.Event().wait()
        raise EOFError

    return connect


async def _host(road: Road, leaves: asyncio.Event) -> None:
    road.start()
    try:
        await leaves.wait()
    finally:
        await road.close()


@asynccontextmanager
async def visiting(directory: Path, me: str) -> AsyncIterator[Road]:
    """Be in at an agent's door. Raises Disconnected where no agent answers."""
    road = Road(to_socket(directory / SOCKET), user=me, peer=me, speaks_for=_named_by_key, is_ours=True)
    road.start()
    try:
        await _wait_up(road, directory)
        yield road
    finally:
        await road.close()


def _named_by_key(said: Say) -> str:
    """The agent passes on what its guests say, each under its own name, which it has checked."""
    return said.key.partition(".")[0] if said.exchange == UP else ""


async def _wait_up(road: Road, directory: Path) -> None:
    try:
        async with asyncio.timeout(ANSWER_S):
            await road.wait_up()
    except TimeoutError as error:
        text = f"no host agent answers in {directory}: {road.trouble}; is it running, and are you its user?"
        raise Disconnected(text) from error
