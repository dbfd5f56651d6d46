"""``host_agent``: the command that BOINC, systemd or a person starts on a volunteer's host."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from broker.daemon.config import read_config
from broker.daemon.exit import judged
from broker.daemon.main import command_line, daemon, load_config, run_until_signal
from host_agent.agent import HostAgent
from host_agent.boinc.application import is_slot, run_in_slot
from host_agent.boinc.job_files import read_plan_file
from host_agent.config import HostConfig
from host_agent.errors import BadName, HostError, JobFileError
from host_agent.hypervisors.drivers import make_driver
from host_agent.running import run_in_guest
from schemas.vms import VmStatus

log = logging.getLogger(__name__)


def main() -> None:
    """Run the agent until SIGTERM or SIGINT; its VMs live on. Exits 2 for a wrong setting, 1 when it cannot start.

    Started by BOINC's client, in a slot, it carries out the job file there; ``run-job`` does so for a person."""
    words = sys.argv[1:]
    if is_slot(Path.cwd()):
        run_in_slot(words)
    if words[:1] == ["plan"]:
        _plan(words[1:])
    if words[:1] == ["run-job"]:
        run_in_slot(words[1:])
    parser = command_line("host_agent", "Run virtual machines for the volunteer cloud.")
    parser.epilog = "Under BOINC: `host_agent plan FILE` prints what a job file comes to, `host_agent run-job` runs it."
    parser.add_argument("--poweroff-all", action="store_true", help="end every VM of this host, then exit")
    parser.add_argument("--vm", metavar="NAME", help="VM of the running agent in which exec runs a command")
    parser.add_argument("exec", nargs=argparse.REMAINDER, help="exec -- COMMAND...: run it in --vm, and end as it does")
    options = parser.parse_args()
    if options.vm or options.exec:
        _exec(parser, options)
    else:
        _serve(options)


def _plan(words: list[str]) -> NoReturn:
    """Print what a job file of BOINC's comes to, and what of it nobody heeds."""
    parser = argparse.ArgumentParser(prog="host_agent plan", description="Print what a job file of BOINC's comes to.")
    parser.add_argument("file", type=Path, help="job.xml")
    file = parser.parse_args(words).file
    with judged("host_agent plan", HostError, by_hand=True):
        try:
            plan = read_plan_file(file)
        except (JobFileError, BadName) as error:
            sys.exit(f"{file}: {error}")
        except OSError as error:
            sys.exit(f"{file}: {error.strerror}; name a job file of BOINC's, such as job.xml")
        for warned in (*plan.refused, *plan.warnings):
            print(f"{file}: {warned}", file=sys.stderr)  # noqa: T201
        print(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode())  # noqa: T201
    sys.exit(0)


def _serve(options: argparse.Namespace) -> None:
    """Run the agent, or only end its VMs; tell a person which live on."""
    with daemon("host_agent", HostError):
        config = load_config(options.config, HostConfig)
        directory = Path(config.directory)
        hypervisor = make_driver(config.hypervisor, directory / "hypervisor", f"{options.config}: hypervisor")
        directory.mkdir(parents=True, exist_ok=True)
        agent = HostAgent(config, hypervisor)
        run_until_signal(agent.poweroff_all() if options.poweroff_all else agent.run())
        log.info("stopped", extra={"vms_left_running": len(agent.left_running)})
        if agent.left_running:
            print(_goodbye(agent.left_running, options.config), file=sys.stderr)  # noqa: T201


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


def _goodbye(living: list[VmStatus], config: Path) -> str:
    names = ", ".join(f"{status.name} (pid {status.pid})" for status in living)
    many = "virtual machines go" if len(living) > 1 else "virtual machine goes"
    advice = f"end with: host_agent --config {shlex.quote(str(config))} --poweroff-all"
    return f"host_agent: ended; {len(living)} {many} on without it: {names}; {advice}"


if __name__ == "__main__":
    main()
