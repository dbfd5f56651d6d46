"""Where things are in a data directory. Nothing is made here but by ``make``."""

from __future__ import annotations

from pathlib import Path

import msgspec

#: Lines of a log that an error message shows.
TAIL_LINES = 8


class Layout(msgspec.Struct, frozen=True):
    """The places of one data directory."""

    root: Path

    @property
    def node(self) -> Path:
        """The private RabbitMQ node."""
        return self.root / "node"

    @property
    def etc(self) -> Path:
        """Configurations, names and ports."""
        return self.root / "etc"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Who runs: one record a process."""
        return self.root / "run"

    @property
    def credentials(self) -> Path:
        """Broker logins, written by the key manager."""
        return self.root / "credentials"

    @property
    def host(self) -> Path:
        """All that the host agent keeps: VMs, images, journal."""
        return self.root / "host"

    @property
    def plan(self) -> Path:
        """What ``up`` was asked for."""
        return self.etc / "up.json"

    @property
    def supervisor(self) -> Path:
        """The record of the process that holds everything up."""
        return self.run / "supervisor.json"

    def config(self, process: str) -> Path:
        """The configuration of a process."""
        return self.etc / f"{process}.toml"

    def log(self, process: str) -> Path:
        """The log of a process."""
        return self.logs / f"{process}.log"

    def record(self, process: str) -> Path:
        """The record of a process."""
        return self.run / f"{process}.json"

    def credential(self, principal: str) -> Path:
        """The credential of a principal."""
        return self.credentials / f"{principal}.json"

    def make(self) -> None:
        """Make the directories; credentials and the broker's data are their owner's alone."""
        for path in (self.etc, self.logs, self.run, self.credentials, self.host, self.root / "staging"):
            path.mkdir(parents=True, exist_ok=True)
        self.credentials.chmod(0o700)
        self.etc.chmod(0o700)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Give the end of a log; empty when there is none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line[:300]}" for line in text.strip().splitlines()[-lines:])
