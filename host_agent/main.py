"""``host_agent``: the command that BOINC, systemd or a person starts on a volunteer's host."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shlex
import signal
import sys
from pathlib import Path

from broker.config import read_config, show_config
from broker.daemon.exit import judged
from broker.garbage import collect_rarely
from broker.logs import log_to_stderr
from host_agent.agent import HostAgent
from host_agent.config import HostConfig
from host_agent.errors import HostError
from host_agent.hypervisors.contract import Hypervisor
from host_agent.hypervisors.drivers import make_driver
from host_agent.running import run_in_guest
from schemas.vms import VmStatus

log = logging.getLogger(__name__)


def main() -> None:
    """Run the agent until SIGTERM or SIGINT; its VMs live on. Exits 2 for a wrong setting, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="host_agent", description="Run virtual machines for the volunteer cloud.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    parser.add_argument("--poweroff-all", action="store_true", help="end every VM of this host, then exit")
    parser.add_argument("--vm", metavar="NAME", help="VM of the running agent in which exec runs a command")
    parser.add_argument("exec", nargs=argparse.REMAINDER, help="exec -- COMMAND...: run it in --vm, and end as it does")
    options = parser.parse_args()
    if options.vm or options.exec:
        _exec(parser, options)
    else:
        _serve(options)


def _serve(options: argparse.Namespace) -> None:
    collect_rarely()
    log_to_stderr("host_agent")
    with judged("host_agent", HostError):
        config = read_config(options.config, HostConfig)
        log.info("starting", extra=show_config(config))
        directory = Path(config.directory)
        hypervisor = make_driver(config.hypervisor, directory / "hypervisor", f"{options.config}: hypervisor")
        directory.mkdir(parents=True, exist_ok=True)
        living = asyncio.run(_run(config, hypervisor, poweroff_all=options.poweroff_all))
        log.info("stopped", extra={"vms_left_running": len(living)})
        if living:
            print(_goodbye(living, options.config), file=sys.stderr)  # noqa: T201


def _exec(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Run a command in a VM of this host, and exit as it does."""
    verb, command = options.exec[:1], [word for at, word in enumerate(options.exec[1:]) if at or word != "--"]
    if not options.vm or verb != ["exec"] or not command:
        parser.error("a command is run in a VM so: host_agent --config FILE --vm NAME exec -- COMMAND [ARGUMENT]...")
    with judged("host_agent", HostError, by_hand=True):
        config = read_config(options.config, HostConfig)
        try:
            sys.exit(asyncio.run(run_in_guest(config, options.vm, command)))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


async def _run(config: HostConfig, hypervisor: Hypervisor, *, poweroff_all: bool) -> list[VmStatus]:
    """Work until a signal; give the VMs that live on."""
    agent = HostAgent(config, hypervisor)
    work = asyncio.ensure_future(agent.poweroff_all() if poweroff_all else agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    return agent.left_running


def _goodbye(living: list[VmStatus], config: Path) -> str:
    names = ", ".join(f"{status.name} (pid {status.pid})" for status in living)
    many = "virtual machines go" if len(living) > 1 else "virtual machine goes"
    advice = f"end with: host_agent --config {shlex.quote(str(config))} --poweroff-all"
    return f"host_agent: ended; {len(living)} {many} on without it: {names}; {advice}"


if __name__ == "__main__":
    main()
