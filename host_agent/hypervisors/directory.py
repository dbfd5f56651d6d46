"""Where a driver keeps what it made: one directory per VM, complete or not there at all.

``vm.json`` in a VM's directory is our marker: what has none is not ours, what has a damaged one is a VM all the same.
``process.json`` names the process of a VM that was started and not put to rest; a dead process there means an aborted
VM. Knows files, no hypervisor.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from broker import durable
from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import VmSpec
from schemas.vms import MOST_OF_A_NAME

log = logging.getLogger(__name__)

_Record = TypeVar("_Record", bound=msgspec.Struct)

_MARKER = "vm.json"
_PROCESS = "process.json"
#: Prefix of directories that are being made or removed; the next ``sweep`` finishes their removal.
_HALF_MADE = ".half-"
#: A VM whose marker does not say when it was made counts as the newest.
_NEWEST_NS = 1 << 63


class VmMarker(msgspec.Struct, frozen=True):
    """The marker: who made the VM, from what, and when."""

    driver: str
    created_ns: int
    spec: VmSpec


class VmDirectories:
    """The directories of one driver's VMs."""

    def __init__(self, root: Path, driver: str) -> None:
        self.root = root
        self._driver = driver

    def sweep(self) -> None:
        """Make the root if need be, and remove what was left half-made; what cannot be removed is left and told."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{_HALF_MADE}*"):
            try:
                shutil.rmtree(leftover)
            except OSError as error:
                log.error("leftover_not_removed path=%s error=%s", leftover, error)
        for vm in self.list():
            try:
                durable.remove_unfinished(self.path(vm))
            except OSError as error:
                log.error("leftover_not_removed path=%s error=%s", self.path(vm), error)

    def list(self) -> list[str]:
        """Name this driver's VMs in order of creation, also those whose markers are damaged."""
        homes = [home for home in self.root.iterdir() if _is_id(home.name)] if self.root.exists() else []
        made = [(when_ns, home.name) for home in homes if (when_ns := self._made_ns(home.name)) is not None]
        return [vm for _, vm in sorted(made)]

    def path(self, vm: str) -> Path:
        """Give the directory of a VM, whether it exists or not."""
        if not _is_id(vm):
            raise HypervisorError(f"{vm!r} is not a VM id: letters, digits and hyphens")
        return self.root / vm

    def exists(self, vm: str) -> bool:
        """Say whether the VM is there and ours, though its marker may be damaged."""
        return self._made_ns(vm) is not None

    def spec(self, vm: str) -> VmSpec:
        """Give what the VM was made from; raise HypervisorError if there is no such VM, or its marker is damaged."""
        record = self._marker(vm)
        if record is None:
            raise HypervisorError(f"there is no VM {vm}")
        return record.spec

    def flaw(self, vm: str) -> str:
        """Say what is wrong with a VM's marker; empty if nothing is."""
        try:
            self._marker(vm)
        except HypervisorError as error:
            return str(error)
        return ""

    @contextlib.contextmanager
    def making(self, spec: VmSpec) -> Iterator[Path]:
        """Give a directory to fill; it becomes the VM's if the block succeeds, and is removed if not."""
        home = self.path(spec.id)
        scratch = self.root / f"{_HALF_MADE}{spec.id}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)
        try:
            yield scratch
            write_record(scratch / _MARKER, VmMarker(self._driver, time.time_ns(), spec))
            scratch.rename(home)
            durable.sync_directory(self.root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def remove(self, vm: str) -> None:
        """Remove every file of a VM; succeeds when it is gone. Interrupted, it is finished by the next ``sweep``."""
        if self.exists(vm):
            scratch = self.root / f"{_HALF_MADE}{vm}"
            shutil.rmtree(scratch, ignore_errors=True)
            self.path(vm).rename(scratch)
            shutil.rmtree(scratch)

    def process(self, vm: str) -> ProcessIdentity | None:
        """Give the process that was started for a VM, alive or not; None if it was put to rest."""
        return read_record(self.path(vm) / _PROCESS, ProcessIdentity)

    def known_process(self, vm: str) -> ProcessIdentity | None:
        """As ``process``, but None where its record is damaged: what the VM's mark finds is ended all the same."""
        try:
            return self.process(vm)
        except HypervisorError:
            return None

    def remember_process(self, vm: str, process: ProcessIdentity) -> None:
        """Note which process is the VM, so that the next agent finds it."""
        write_record(self.path(vm) / _PROCESS, process)

    def forget_process(self, vm: str) -> None:
        """Note that the VM was put to rest."""
        (self.path(vm) / _PROCESS).unlink(missing_ok=True)

    def _marker(self, vm: str) -> VmMarker | None:
        """Read a VM's marker; None if it is not ours. Raises HypervisorError if it makes no sense."""
        path = self.path(vm) / _MARKER
        record = read_record(path, VmMarker)
        if record is None or record.driver != self._driver:
            return None
        if record.spec.id != vm:
            raise HypervisorError(
                f"{path} is {record.spec.id}'s: its directory was copied or renamed; move it away, or back"
            )
        return record

    def _made_ns(self, vm: str) -> int | None:
        try:
            record = self._marker(vm)
        except HypervisorError:
            return _NEWEST_NS
        return record.created_ns if record is not None else None


def _is_id(name: str) -> bool:
    return 0 < len(name) <= MOST_OF_A_NAME and all(letter.isalnum() or letter == "-" for letter in name)


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record so that a crash leaves either the old one or the new one."""
    durable.replace(path, msgspec.json.encode(record, enc_hook=str))


def read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """Read a record; None if there is none. Raises HypervisorError if it cannot be read, or makes no sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind, dec_hook=_decode_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise HypervisorError(f"{path} is damaged: {error}; restore it from a copy") from error
    except OSError as error:
        raise HypervisorError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode_path(kind: type, value: Any) -> Any:
    return kind(value)
