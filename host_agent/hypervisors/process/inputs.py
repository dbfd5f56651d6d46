"""One file at a time for a guest agent that is a process: a copy in its own directory, which it may change."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path

from broker import durable
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.process.files import INPUTS, ProcessFiles
from schemas.inputs import Medium


class ProcessInputs:
    """See the contract. No hard link: payloads of an agent that is not root could change what others will read."""

    kind, unit_bytes = Medium.FILE, 1

    def __init__(self, files: ProcessFiles) -> None:
        self._files = files

    async def insert(self, vm: str, file: Path) -> str:
        """Copy it, holes kept."""
        if not self._files.state_directory(vm).is_dir():
            raise HypervisorError(f"VM {vm} has no directory")
        name = secrets.token_hex(16)
        with naming_disk(f"cannot show {vm} an input"):
            await asyncio.to_thread(_copy, file, self._files.state_directory(vm) / INPUTS, name)
        return name

    async def eject(self, vm: str) -> None:
        """Remove the copy."""
        with naming_disk(f"cannot take an input from {vm}"):
            await asyncio.to_thread(_remove, self._files.state_directory(vm) / INPUTS)


def _copy(file: Path, directory: Path, name: str) -> None:
    _remove(directory)
    directory.mkdir(mode=0o700)
    durable.copy(file, directory / name)


def _remove(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory)
