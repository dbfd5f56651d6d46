"""``volcloud xmlrpc``: the calls of the original VM controller, for scripts that were written for it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from broker.node import LOOPBACK
from volcloud.amounts import Whole
from volcloud.centre.interruption import ended_from_outside
from volcloud.client import AsyncClient
from volcloud.errors import CommandFailed, Unreachable
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.screen import echo
from volcloud.telling import note
from volcloud.xmlrpc.command_book import CommandBook, book_path
from volcloud.xmlrpc.door import Door
from volcloud.xmlrpc.gate import PATH
from volcloud.xmlrpc.http_server import HttpServer
from volcloud.xmlrpc.method import Room
from volcloud.xmlrpc.token_file import have_token, token_path


class _Where(msgspec.Struct, frozen=True):
    """Where the door is, for programs."""

    url: str
    token_file: str


@click.command("xmlrpc")
@click.option("--port", required=True, type=Whole(0, 65535, example="8080"), metavar="N", help="Loopback port; 0: any.")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Copy files from and to this directory only.  [default: wherever you may read and write]",
)
@data_option
@json_option
@pass_invocation
def xmlrpc(invocation: Invocation, port: int, files: Path | None) -> None:
    """Serve the XML-RPC calls of the original VM controller, on this machine, until Ctrl-C.

    Every call needs the token: the file xmlrpc/token of the data directory has it, made at the first start. Who has it
    may do what you may: VMs, commands in them, and your files by cpFileToVM and cpFileFromVM.

    \b
    Example:
      volcloud xmlrpc --port 8080
      python3 -c 'from xmlrpc.client import ServerProxy as S; print(S("http://token:TOKEN@127.0.0.1:8080").listVMs())'
    """
    asyncio.run(_serve(invocation, port, files.resolve() if files else None))


async def _serve(invocation: Invocation, port: int, files: Path | None) -> None:
    directory = invocation.directory
    if not directory.is_dir():
        step = "start a system with `volcloud up --data DIR`, or name a running one with --data or VOLCLOUD_DATA"
        raise Unreachable(f"no data directory {directory}", step)
    async with await AsyncClient.connect(directory, note) as client:
        # Only now: a directory that holds no system is left as it is.
        token = have_token(token_path(directory))
        book = CommandBook(book_path(directory))
        try:
            await _listen(invocation, Room(client, book, Path.cwd(), files), port, token)
        finally:
            book.close()


async def _listen(invocation: Invocation, room: Room, port: int, token: bytes) -> None:
    server = HttpServer(Door(room).answer)
    try:
        found = await _opened(server, port, token)
        _say_where(invocation, found)
        await _until_ended(invocation.directory, invocation.say)
    finally:
        await server.close()


async def _opened(server: HttpServer, port: int, token: bytes) -> int:
    try:
        return await server.open(port, token)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            what = "is taken" if error.errno == errno.EADDRINUSE else "is the system's"
            raise CommandFailed(f"port {port} of {LOOPBACK} {what}", "choose another with --port") from error
        raise


def _say_where(invocation: Invocation, port: int) -> None:
    path = token_path(invocation.directory)
    url = f"http://{LOOPBACK}:{port}{PATH.decode()}"
    if invocation.is_json:
        echo(msgspec.json.encode(_Where(url, str(path))).decode())
        return
    echo(f"serving {url}; Ctrl-C ends it")
    echo(f"the token: cat {path}")


async def _until_ended(directory: Path, say: Callable[[str], None]) -> None:
    waiting = asyncio.ensure_future(asyncio.Event().wait())
    async with ended_from_outside(waiting, directory, say, follows_starter=False) as end:
        await asyncio.wait([waiting])
    if end.signal == 0:
        raise CommandFailed(f"the door closed: {end.reason}", "start it again where there is a system")
