"""What BOINC's client tells the application in ``init_data.xml``; no oddity of it keeps a task from running.

The client escapes the names of user and team only, projects put into their preferences what they like, and the text may
be of any encoding. So each value is looked for as the client writes it, a whole line; the blocks that others fill are
left out first, and what makes no sense is as if it were not there. Bytes that are no UTF-8 stay what they are. Pure.
Source: ``lib/app_ipc.cpp``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T")
D = TypeVar("D")

#: A longer one is read so far, bytes: the client writes some 10 KiB.
MOST_BYTES = 4 << 20
#: Blocks whose content a project, or a proxy's owner, decides.
_OTHERS = re.compile(r"<(project_preferences|proxy_info)\b[^>]*>.*?</\1\s*>", re.DOTALL)
_APP_FILE = re.compile(r"^[ \t]*<app_file>[ \t]*([^<\n]*?)[ \t]*</app_file>[ \t\r]*$", re.MULTILINE)
_MOST_FILES = 10_000
#: As the kernel counts.
_MOST_PID = 1 << 22


class InitData(Struct, frozen=True, kw_only=True):
    """See the module. Seconds and bytes; 0 and empty where nothing is said."""

    version: str = ""
    app_name: str = ""
    wu_name: str = ""
    result_name: str = ""
    project_dir: str = ""
    boinc_dir: str = ""
    slot: int = 0
    #: -1: the file in the slot; another one: of System V; None: nothing is said.
    shm_key: int | None = None
    #: What Windows calls the memory that is shared.
    comm_obj_name: str = ""
    client_pid: int = 0
    wu_cpu_s: float = 0.0
    starting_elapsed_s: float = 0.0
    checkpoint_period_s: float = 0.0
    fraction_done_start: float = 0.0
    fraction_done_end: float = 1.0
    ncpus: float = 1.0
    gpu_device_num: int = -1
    memory_bound_bytes: float = 0.0
    disk_bound_bytes: float = 0.0
    may_change_priority: bool = True
    #: What the client wants of the priority, from 1 (lowest) to 5; 0: nothing.
    process_priority: int = 0
    #: Physical names of the files of the application's version: what the project has signed.
    app_files: tuple[str, ...] = ()
    #: What of it could not be obeyed, for people.
    notes: tuple[str, ...] = ()


def read_init_data(body: bytes) -> InitData:
    """Read the file's content. Never fails."""
    ours = _OTHERS.sub("", body[:MOST_BYTES].decode("utf-8", "surrogateescape"))
    number, word, whole = _reader(ours, _float), _reader(ours, str), _reader(ours, _int)
    priority, ncpus = whole("process_priority", -1), number("ncpus", 1.0)
    return InitData(
        version=".".join(str(whole(part, 0)) for part in ("major_version", "minor_version", "release")),
        app_name=word("app_name", ""),
        wu_name=word("wu_name", ""),
        result_name=word("result_name", ""),
        project_dir=word("project_dir", ""),
        boinc_dir=word("boinc_dir", ""),
        slot=whole("slot", 0),
        shm_key=whole("shm_key", None),
        comm_obj_name=word("comm_obj_name", ""),
        client_pid=pid if 0 < (pid := whole("client_pid", 0)) <= _MOST_PID else 0,
        wu_cpu_s=max(0.0, number("wu_cpu_time", 0.0)),
        starting_elapsed_s=max(0.0, number("starting_elapsed_time", 0.0)),
        checkpoint_period_s=max(0.0, number("checkpoint_period", 0.0)),
        fraction_done_start=_within(number("fraction_done_start", 0.0), 0.0),
        fraction_done_end=_within(number("fraction_done_end", 1.0), 1.0),
        ncpus=ncpus if ncpus > 0 else 1.0,
        gpu_device_num=whole("gpu_device_num", -1),
        memory_bound_bytes=max(0.0, number("rsc_memory_bound", 0.0)),
        disk_bound_bytes=max(0.0, number("rsc_disk_bound", 0.0)),
        may_change_priority=not whole("no_priority_change", 0) and "<no_priority_change/>" not in ours,
        process_priority=priority + 1 if 0 <= priority <= 4 else 0,
        app_files=tuple(match[1] for match in _APP_FILE.finditer(ours))[:_MOST_FILES],
        notes=() if ncpus > 0 else (f"<ncpus>: {ncpus:g}: a task has more than 0 CPUs; this one has 1",),
    )


def _reader(text: str, kind: Callable[[str], T | None]) -> Callable[[str, D], T | D]:
    def read(tag: str, otherwise: D) -> T | D:
        found = re.search(rf"^[ \t]*<{tag}>[ \t]*([^<\n]*?)[ \t]*</{tag}>[ \t\r]*$", text, re.MULTILINE)
        value = kind(found[1]) if found is not None else None
        return otherwise if value is None else value

    return read


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _int(text: str) -> int | None:
    value = _float(text)
    return int(value) if value is not None and abs(value) < 1 << 62 else None


def _within(value: float, otherwise: float) -> float:
    return value if 0.0 <= value <= 1.0 else otherwise
