"""What the driver ``process`` keeps of a VM on disk: its seed, its log, the guest agent's own directory."""

from __future__ import annotations

from pathlib import Path

from broker import durable
from host_agent.errors import naming_disk
from host_agent.hypervisors.directory import VmDirectories

_SEED = "seed"
_LOG = "guest.log"
_STATE = "state"
#: The host's end of the local road, in the guest agent's directory.
ROAD = "road.sock"
#: Where the guest agent finds what its host shows it, there.
INPUTS = "host-inputs"


class ProcessFiles(VmDirectories):
    """The directories of this driver's VMs."""

    def seed_file(self, vm: str) -> Path:
        """Name the file in which the guest agent finds its seed."""
        return self.path(vm) / _SEED

    def write_seed(self, vm: str, seed: bytes) -> None:
        """Make ``seed`` what the guest finds; only this user reads it. Raises OSError."""
        durable.replace(self.seed_file(vm), seed)

    def read_seed(self, vm: str) -> bytes | None:
        """Give the newest seed; None if there never was one. Raises HypervisorError."""
        with naming_disk(f"seed of {vm}"):
            try:
                return self.seed_file(vm).read_bytes()
            except FileNotFoundError:
                return None

    def log_file(self, vm: str) -> Path:
        """Name the file that holds what the guest agent prints."""
        return self.path(vm) / _LOG

    def state_directory(self, vm: str) -> Path:
        """Name the guest agent's own directory, in which it runs."""
        return self.path(vm) / _STATE

    def make_state_directory(self, home: Path) -> None:
        """Make the guest agent's directory in a VM that is being made. Raises OSError."""
        (home / _STATE).mkdir(mode=0o700)
