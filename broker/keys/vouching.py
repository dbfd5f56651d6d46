"""For which VMs a host vouches, and what becomes of a VM for which nobody does any more. Pure.

A host says from time to time which VMs it has. One that it has forgotten, that it has and does not know, or whose host
never came back, keeps neither login nor queues for ever. Who comes back later is given a new login for the VM: nothing
is lost but messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from broker.keys.store import EnrolledVm
from schemas.enrol import SILENT_DAYS

#: A VM that its host's word has left out is kept so long, in case that word was said before the VM was asked for;
#: served seconds.
DISOWNED_S = 3600.0
#: A VM for which no host has vouched for so long is nobody's, served seconds: a volunteer may be away for a month.
SILENT_S = SILENT_DAYS * 86400.0
#: From here on an operator is told, served seconds.
SILENT_TOLD_S = 7 * 86400.0


def vouched(
    host: str, records: Collection[EnrolledVm], named: Collection[str], aside: Collection[str] = ()
) -> Iterator[EnrolledVm]:
    """Give what changes when ``host`` says that it has ``named``; ``records`` are its own and those without a host.

    What it has set ``aside`` it has, and does not vouch for: that grows silent.
    """
    for record in records:
        if record.vm in aside and record.host in ("", host):
            if record.host != host or record.disowned:
                yield msgspec.structs.replace(record, host=host, disowned=False)
            continue
        if record.vm in named and record.host in ("", host):
            if record.host != host or record.disowned or record.silent_s:
                yield msgspec.structs.replace(record, host=host, silent_s=0.0, disowned=False)
        elif record.host == host and not record.disowned:
            yield msgspec.structs.replace(record, silent_s=0.0, disowned=True)


def is_nobodys(record: EnrolledVm) -> bool:
    """Say whether a VM's principal is to go."""
    return record.silent_s > (DISOWNED_S if record.disowned else SILENT_S)


def complaint(record: EnrolledVm) -> str:
    """Say who does not vouch for a VM, in words for an operator; empty while all is well."""
    if record.disowned:
        left_s = max(0.0, DISOWNED_S - record.silent_s)
        return f"{record.host} says that it has no such VM; it goes in {left_s / 60:.0f} min"
    if not record.host:
        return f"no host has vouched for it for {record.silent_s / 3600:.0f} h"
    days = record.silent_s / 86400
    return f"{record.host} has not vouched for it for {days:.0f} days" if record.silent_s > SILENT_TOLD_S else ""
