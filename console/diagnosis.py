"""Which part of a system is to blame when it does not answer, since when, and what mends it.

Read off the processes that a data directory records, and their logs: asks nobody, so it says its word also when all of
them are frozen. Of a system on other machines it knows nothing and says nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from broker.process_record import ProcessRecord
from console.centre.layout import Layout
from console.centre.process_state import ProcessState, read_states
from console.centre.stopping import node_record
from console.rendering import span


class Trouble(msgspec.Struct, frozen=True):
    """A part that does not do its work."""

    what: str
    mend: str


def troubles(layout: Layout) -> list[Trouble]:
    """Name every part that has ended or is held by a signal, the broker first. Raises nothing."""
    states = {state.name: state for state in read_states(layout.run)}
    if not states:
        return []
    states.pop("broker", None)
    found = [_of_node(layout), *(_of_process(layout, state) for state in states.values())]
    return [one for one in found if one is not None]


def _of_node(layout: Layout) -> Trouble | None:
    record, log = node_record(layout), layout.node / "log" / "node.log"
    if record is None:
        return Trouble(f"the broker does not run{_last_word(log)}", "`volcloud up` starts it")
    return _held("the broker", record, log)


def _of_process(layout: Layout, state: ProcessState) -> Trouble | None:
    log = layout.log(state.name)
    if state.is_alive:
        return _held(state.name, state.record, log)
    return Trouble(f"{state.name} does not run{_last_word(log)}", f"`volcloud up` starts it; {log} may tell why")


def _held(name: str, record: ProcessRecord, log: Path) -> Trouble | None:
    if not _is_stopped(record.pid):
        return None
    text = f"{name} (pid {record.pid}) is held by a signal{_last_word(log)}"
    return Trouble(text, f"`kill -CONT {record.pid}` lets it go on")


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _last_word(log: Path) -> str:
    try:
        return f"; its last word in {log} is {span(time.time() - log.stat().st_mtime)} old"
    except OSError:
        return ""
