"""The Windows half: the client's memory, the lock of a slot and standard error, by what kernel32 has for them.

UNVERIFIED: made from BOINC's source and tested against a kernel32 that is played; nothing of it has run on Windows, and
nothing else here claims to. Source: ``api/boinc_api.cpp``, ``lib/shmem.cpp``, ``lib/util.cpp``.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Protocol

from host_agent.boinc.channels import SEGMENT_BYTES, Memory
from host_agent.boinc.init_data import InitData
from host_agent.boinc.slot_files import LOCK_FILE

FILE_MAP_ALL_ACCESS, GENERIC_WRITE = 0xF001F, 0x40000000
NO_SHARING, OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL = 0, 4, 0x80
#: What ``CreateFileW`` gives where it fails, as whichever integer it comes.
_INVALID = {-1, (1 << 32) - 1, (1 << 64) - 1}


class Kernel32(Protocol):
    """What is used of it; ``ctypes.windll.kernel32`` is one."""

    def OpenFileMappingW(self, access: int, inherit: bool, name: str, /) -> int:  # noqa: N802
        """Give a handle of a mapping that is there; 0 where there is none."""

    def MapViewOfFile(self, mapping: int, access: int, high: int, low: int, octets: int, /) -> int:  # noqa: N802
        """Give the address of a mapping's content; 0 where that fails."""

    def CreateFileW(  # noqa: N802
        self, name: str, access: int, sharing: int, security: None, how: int, attributes: int, template: None, /
    ) -> int:
        """Give a handle of a file; -1 where that fails."""

    def CloseHandle(self, handle: int, /) -> int:  # noqa: N802
        """Let go of a handle."""


def attach(data: InitData, kernel32: Kernel32) -> Memory:
    """Attach the client's memory. A service's lies in a name space of its own, which is looked into first. Raises
    OSError that says what is missing."""
    if not data.comm_obj_name:
        raise FileNotFoundError("the client names no shared memory: <comm_obj_name> is missing in init_data.xml")
    for name in (f"Global\\shm_{data.comm_obj_name}", f"shm_{data.comm_obj_name}"):
        mapping = kernel32.OpenFileMappingW(FILE_MAP_ALL_ACCESS, False, name)
        if not mapping:
            continue
        address = kernel32.MapViewOfFile(mapping, FILE_MAP_ALL_ACCESS, 0, 0, SEGMENT_BYTES)
        if address:
            return memoryview((ctypes.c_char * SEGMENT_BYTES).from_address(address)).cast("B")
        kernel32.CloseHandle(mapping)
    raise FileNotFoundError(f"shared memory shm_{data.comm_obj_name} is not there")


class WindowsSlotLock:
    """A slot is one process's: a file that nobody else may open while it is held."""

    def __init__(self, slot: Path, kernel32: Kernel32) -> None:
        self._path, self._kernel32 = slot / LOCK_FILE, kernel32
        self._handle: int | None = None

    def take(self) -> bool:
        """Try to take it; say whether it is ours."""
        words = (GENERIC_WRITE, NO_SHARING, None, OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL, None)
        handle = self._kernel32.CreateFileW(str(self._path), *words)
        if handle in _INVALID:
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        """Let it go, and remove it. Idempotent."""
        if self._handle is not None:
            self._kernel32.CloseHandle(self._handle)
            self._handle = None
            self._path.unlink(missing_ok=True)


def open_standard_error(path: Path, descriptor: int = 2) -> None:
    """Have what is said go behind what ``stderr.txt`` has: here the client opens no such file. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, descriptor)
    finally:
        os.close(file)
