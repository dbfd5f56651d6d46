"""What may be done to a VM's snapshots by name, whoever keeps them: a name is there once, and so many are at most.

Every driver is asked what there is; which sentence a person then hears is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence

from host_agent.advice import snapshot_command
from host_agent.errors import SnapshotTaken, UnknownSnapshot
from schemas.vms import MOST_SNAPSHOTS, VmSnapshot


def check_free(vm: str, name: str, known: Sequence[VmSnapshot]) -> None:
    """Raise SnapshotTaken unless a snapshot of that name may be taken."""
    if name in _names(known):
        advice = f"{snapshot_command('delete', vm, name)} removes it, or choose another name"
        raise SnapshotTaken(f"snapshot = {name!r}: it is there already; {advice}")
    if len(known) >= MOST_SNAPSHOTS:
        advice = f"{snapshot_command('delete', vm, known[0].name)} removes the oldest"
        raise SnapshotTaken(f"snapshot = {name!r}: the VM has {len(known)}, and {MOST_SNAPSHOTS} at most; {advice}")


def check_there(vm: str, name: str, known: Sequence[VmSnapshot]) -> None:
    """Raise UnknownSnapshot, naming those that there are, unless there is one of that name."""
    if name in _names(known):
        return
    if not known:
        advice = f"{snapshot_command('take', vm, name)} takes one of a VM that runs"
        raise UnknownSnapshot(f"snapshot = {name!r}: the VM has no snapshots; {advice}")
    raise UnknownSnapshot(f"snapshot = {name!r}: the VM has none of that name; name one of {', '.join(_names(known))}")


def _names(known: Sequence[VmSnapshot]) -> list[str]:
    return [one.name for one in known]
