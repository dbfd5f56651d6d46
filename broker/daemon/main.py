"""The main of a daemon: log, settings, signals and exit, alike for all of them. What one does is its package's."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker.daemon.config import read_config, show_config
from broker.daemon.exit import judged
from broker.daemon.garbage import collect_rarely
from broker.daemon.logs import log_to_stderr

log = logging.getLogger(__name__)

C = TypeVar("C", bound=msgspec.Struct)


def serve(
    name: str,
    description: str,
    kind: type[C],
    run: Callable[[C], Coroutine[Any, Any, None]],
    *foreseen: type[Exception],
) -> None:
    """Be a daemon that is told nothing but its settings, of which ``run`` makes its work; see ``daemon``."""
    options = command_line(name, description).parse_args()
    with daemon(name, *foreseen):
        run_until_signal(run(load_config(options.config, kind)))
        log.info("stopped")


def command_line(name: str, description: str) -> argparse.ArgumentParser:
    """Give the command line of a daemon with settings: ``--config FILE``."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    return parser


@contextlib.contextmanager
def daemon(name: str, *foreseen: type[Exception]) -> Iterator[None]:
    """Be the daemon ``name`` within the block: its log goes to standard error. What the block raises ends the process,
    with status 2 for a wrong setting and else 1; ``foreseen`` are errors of its own that need no traceback."""
    collect_rarely()
    log_to_stderr(name)
    with judged(name, *foreseen):
        yield


def load_config(path: Path, kind: type[C]) -> C:
    """Read the settings and log them, as the first thing that a daemon says. Raises ConfigError."""
    config = read_config(path, kind)
    log.info("starting", extra=show_config(config))
    return config


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, or until SIGTERM or SIGINT cancels it; what it raises is raised."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_cancelled_by_signals(work))


async def _cancelled_by_signals(work: Coroutine[Any, Any, None]) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel if task else loop.stop)
    await work
