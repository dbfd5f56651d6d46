"""``guest_agent``: the command that a VM's init, or the process driver, starts."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from broker.daemon.main import daemon, run_until_signal
from guest_agent.agent import GuestAgent
from guest_agent.errors import GuestError
from guest_agent.seed import SeedSource

log = logging.getLogger(__name__)


def main() -> None:
    """Run the agent until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="guest_agent", description="Run jobs and commands inside a VM.")
    parser.add_argument("--seed", default="auto", help="file with the seed, or auto: look where hypervisors put it")
    parser.add_argument("--state-dir", type=Path, required=True, help="directory that survives restarts of the agent")
    parser.add_argument("--image", default="", help="SHA-256 id of the image that this VM was made from")
    parser.add_argument("--whereabouts", type=Path, help="credential of the host's that says where the broker is now")
    options = parser.parse_args()
    with daemon("guest_agent", GuestError):
        log.info("starting", extra={"state_dir": str(options.state_dir), "image": options.image})
        options.state_dir.mkdir(parents=True, exist_ok=True)
        source = SeedSource(None if options.seed == "auto" else Path(options.seed))
        agent = GuestAgent(source, options.state_dir, image=options.image, whereabouts=options.whereabouts)
        run_until_signal(agent.run())
        log.info("stopped")


if __name__ == "__main__":
    main()
