"""How an adapter's process starts and stops: configuration, log, signals, metrics. What it does is its package's."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters.errors import AdapterError
from broker.config import read_config, show_config
from broker.daemon.exit import judged
from broker.garbage import collect_rarely
from broker.logs import log_to_stderr

log = logging.getLogger(__name__)

C = TypeVar("C", bound=msgspec.Struct)


def serve(name: str, description: str, kind: type[C], run: Callable[[C], Awaitable[None]]) -> None:
    """Read ``--config`` and run until SIGTERM or SIGINT. Exits 2 for a wrong setting, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    options = parser.parse_args()
    collect_rarely()
    log_to_stderr(name)
    with judged(name, AdapterError):
        config = read_config(options.config, kind)
        log.info("starting", extra=show_config(config))
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_until_signal(run(config)))
        log.info("stopped")


async def _until_signal(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await task
