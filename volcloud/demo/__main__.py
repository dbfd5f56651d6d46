"""``python -m volcloud.demo``: what ``make demo`` runs once the packages are there."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from volcloud.demo.place import DemoPlace, default_place
from volcloud.demo.program import Options, run_demo
from volcloud.telling import told


def main() -> int:
    """Play the demo."""
    parser = argparse.ArgumentParser(
        prog="python -m volcloud.demo",
        description="Four physics jobs in two virtual machines, from nothing to nothing.",
    )
    parser.add_argument("--hypervisor", choices=("qemu", "process"), default="qemu", help="default: qemu")
    parser.add_argument("--directory", type=Path, help="where it lives (default: demo/ in the user's cache)")
    parser.add_argument("--began", type=float, help="when the set-up before it began, seconds since 1970")
    given = parser.parse_args()
    packages_s = max(0.0, time.time() - given.began) if given.began else 0.0
    place = DemoPlace(given.directory.absolute()) if given.directory else default_place()
    options = Options(hypervisor=given.hypervisor, place=place, packages_s=packages_s)
    return told(lambda: asyncio.run(run_demo(options)), is_json=False)


if __name__ == "__main__":
    sys.exit(main())
