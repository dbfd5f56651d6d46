"""What can go wrong on a volunteer's host, named after what the caller can do about it.

HostError
├── HypervisorError          the driver failed; the message says what the hypervisor said
│   ├── LookTimedOut         the hypervisor did not tell in time how a VM is; ask again, or power it off
│   ├── StopTimedOut         the guest did not shut down in time; poweroff is the next step
│   ├── PortTaken            a port at which the guest is reached is somebody else's; free it, then again
│   ├── HostDiskFull         the host's disk is full; free some space, then again
│   └── Unsupported          this driver can never do that; use another one
├── UnknownVm                this host has no VM of that id or name; look at the list
├── UnknownSnapshot          the VM has no snapshot of that name; take one of those that the message lists
├── SnapshotTaken            a VM has a snapshot of that name, or as many as it may; delete one, or choose another name
├── IllegalVerb              the VM is in a state from which the verb is not allowed
├── OverLimit                the host's limits leave no room for the VM; delete or end another, or raise them
├── Interrupted              another verb cut this one short; look at the VM, then ask again
├── GuestSilent              a guest, or its machine, does not get on; go back further, and try again later
├── GuestStuck               a machine waits for something of its host's, such as its disk; mend that, try again later
├── NotRun                   a command in a guest was not run to its end; it may have begun
├── ImageError               an image is unknown, not allowed, or does not match its SHA-256
├── DirectoryTaken           another agent works in this directory; end it, or use another directory
├── WrongArguments           what BOINC's client puts behind our name is not understood; the project mends it
├── BadName                  a name in a job of BOINC's leads where nothing of it may be; the project mends it
├── BadArchive               an archive of a BOINC job cannot be unpacked, or packed; the project mends it
├── JobFileError             a job file of BOINC's cannot be carried out; the project mends the line that is named
├── JobRefused               a job for a guest is none that one could take; make it smaller, or mend it
├── CentreUnreadable         what a host keeps of its guest's job is damaged; remove it, and the job begins anew
└── RegistryUnreadable       the list of the VMs is damaged; restore it, or move it away and adopt the VMs

``code`` is the word on the wire (``schemas.errors.ErrorCode``). OSError becomes one of these in ``naming_disk``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

#: What a file system says when it has no room, for anybody or for this user.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


#: What to do about what a driver cannot do at all.
ELSEWHERE = "`volcloud host show HOST` says what a host's driver can: choose a VM of one that can do it"


class HostError(Exception):
    """Base of every error of the host agent."""

    code = "internal"


class HypervisorError(HostError):
    """A hypervisor refused or failed; the foreign error is chained."""

    code = "hypervisor"


class PortTaken(HypervisorError):
    """A port of this host at which a guest was to be reached could not be had; what is kept of its VM is whole."""


class LookTimedOut(HypervisorError):
    """A question about a VM was not answered in time."""

    code = "timeout"


class StopTimedOut(HypervisorError):
    """The guest was asked to shut down and did not; it is still running."""

    code = "timeout"


class HostDiskFull(HypervisorError):
    """A disk of the host is full; the file that did not fit is named."""


class Unsupported(HypervisorError):
    """The driver cannot do this at all."""

    code = "unsupported"

    def __init__(self, text: str, *, hint: str = ELSEWHERE) -> None:
        super().__init__(text)
        self.hint = hint


class UnknownVm(HostError):
    """This host has no VM of that id, or name."""

    code = "not_found"


class UnknownSnapshot(HostError):
    """The VM has no snapshot of that name."""

    code = "not_found"


class SnapshotTaken(HostError):
    """The name of a snapshot, or the last place for one, is taken."""

    code = "conflict"


class IllegalVerb(HostError):
    """The verb is not allowed in the state that the VM is in."""

    code = "illegal_state"


class OverLimit(HostError):
    """The host's limits leave no room for what was asked."""

    code = "no_room"
    hint = "end or delete another VM of this host; or its owner raises `limits` in the settings of host_agent"


class Interrupted(HostError):
    """The verb was cut short by another."""

    code = "interrupted"


class GuestSilent(HostError):
    """A virtual machine does not get on with its job; the message says why, as far as anybody knows."""


class GuestStuck(HostError):
    """A virtual machine stands still for want of something of its host's."""


class NotRun(HostError):
    """A command was not run in a guest, or not to its end; the broker's error is chained."""


class ImageError(HostError):
    """An image cannot be used."""

    code = "image"


class DirectoryTaken(HostError):
    """The directory has an agent already."""


class WrongArguments(HostError):
    """A word behind our name that nobody knows, or a value that makes no sense."""

    code = "bad_request"


class BadName(HostError):
    """A name of a job of BOINC's stands for nothing that may be run, read or written."""

    code = "bad_request"


class BadArchive(HostError):
    """An archive of a job of BOINC's cannot be unpacked, or packed: the text says which and why."""

    code = "bad_request"


class JobFileError(HostError):
    """A job file cannot be understood, or not be carried out. The text names the line and the tag."""

    code = "bad_request"

    def __init__(self, line: int, tag: str, text: str) -> None:
        super().__init__("".join([f"line {line}: " if line else "", f"<{tag}>: " if tag else "", text]))
        self.line, self.tag = line, tag


class JobRefused(HostError):
    """A host's own job for its guest is not one that the wire takes."""


class CentreUnreadable(HostError):
    """What a host that is its guests' centre keeps of a job is damaged."""


class RegistryUnreadable(HostError):
    """The list of the VMs is damaged."""

    code = "internal"


@contextlib.contextmanager
def naming_disk(what: str = "") -> Iterator[None]:
    """Turn an OSError of the block into HostDiskFull or HypervisorError that names ``what`` failed, and the file."""
    try:
        yield
    except OSError as error:
        kind = HostDiskFull if error.errno in _NO_ROOM else HypervisorError
        raise kind(": ".join(filter(None, [what, _where(error), _why(error)]))) from error


def _where(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def _why(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return f"{text}; free some space there, then again" if error.errno in _NO_ROOM else text
