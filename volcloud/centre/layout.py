"""Where things are in a data directory. Nothing is made here but by ``make``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker import durable

#: Lines of a log that an error message shows.
TAIL_LINES = 8
#: Every file of a system is its owner's alone.
_PRIVATE_UMASK, _PRIVATE, _PASSABLE = 0o077, 0o700, 0o711


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
    def settings(self) -> Path:
        """What the system consists of; people may edit it."""
        return self.root / "settings.toml"

    @property
    def last(self) -> Path:
        """The settings of the last start."""
        return self.etc / "last.json"

    @property
    def keys(self) -> Path:
        """What the key manager remembers."""
        return self.root / "keys.sqlite"

    @property
    def vms(self) -> Path:
        """The host agent's registry of its VMs."""
        return self.host / "vms.json"

    @property
    def vm_markers(self) -> list[Path]:
        """The marker of each VM that this host has, in a directory of the VM's id; each driver has a place of its own.

        No deeper: below are the directories of payloads, who may call a file what they like.
        """
        places = self.host / "hypervisor"
        return sorted([*places.glob("*/vm.json"), *places.glob("vms/*/vm.json")])

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
        """Make the directories. Whatever this process and its children make from here on is its owner's alone.

        Others may pass through the two on the way to a payload that has an account of its own; they see nothing there.
        """
        os.umask(_PRIVATE_UMASK)
        for path in (self.root, self.host):
            if not path.is_dir():
                path.mkdir(parents=True)
                path.chmod(_PASSABLE)
        for path in (self.etc, self.logs, self.run, self.credentials, self.root / "staging"):
            path.mkdir(exist_ok=True)
            path.chmod(_PRIVATE)
        for path in (self.root, self.etc, self.run, self.credentials):
            durable.remove_unfinished(path)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Give the end of a log; empty when there is none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line[:300]}" for line in text.strip().splitlines()[-lines:])
