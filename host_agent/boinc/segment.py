"""The memory that is shared with BOINC's client, attached: a file in the slot, or a segment of System V."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from host_agent.boinc.channels import SEGMENT_BYTES, Memory
from host_agent.boinc.init_data import InitData
from host_agent.boinc.slot_files import SHARED_MEMORY

_FAILED = ctypes.c_void_p(-1).value


def attach(slot: Path, data: InitData) -> Memory:
    """Attach it. Raises OSError that says what is missing, and what the project has to do."""
    if data.shm_key not in (None, -1):
        return _attach_system_v(int(data.shm_key or 0))
    path = slot / SHARED_MEMORY
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size < SEGMENT_BYTES:
                raise OSError(f"{path} has fewer than {SEGMENT_BYTES} bytes")
            return mmap.mmap(file.fileno(), SEGMENT_BYTES)
    except FileNotFoundError as error:
        text = f"{path} is not there: the application's version needs <api_version> in its version.xml"
        raise FileNotFoundError(error.errno, text) from error


def _attach_system_v(key: int) -> Memory:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(ctypes.c_int(key & 0xFFFFFFFF), ctypes.c_size_t(SEGMENT_BYTES), 0)
    address = libc.shmat(segment, None, 0) if segment >= 0 else _FAILED
    if address in (None, _FAILED):
        number = ctypes.get_errno()
        raise OSError(number, f"shared memory of key {key}: {os.strerror(number)}")
    return memoryview((ctypes.c_char * SEGMENT_BYTES).from_address(address)).cast("B")
