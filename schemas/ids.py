"""Identifiers: how they are made and which characters they may hold.

Principal names are broker users and the first word of a routing key, so they hold no dot; a job's own id is its
submitter's, scoped by owner. Nothing here is secret: see ``broker.principals`` for what a name may do.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta

# Each pattern ends in ``$(?!\n)``: a bare ``$`` lets a newline at the end through.
#: Broker user and first word of every routing key that it writes.
#: A host's is shorter, since the names of its VMs begin with it: see ``new_vm``.
PRINCIPAL_PATTERN = (
    r"^(vm|site|adapter|console|once)-[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)"
    r"|^host-[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$(?!\n)|^keys$(?!\n)"
)
#: The end of a VM's name, behind its host's: no dash, so that ``vm-<host's id>-<end>`` has one reading.
VM_END_PATTERN = "[0-9a-f]{10}"
_VM = re.compile(f"vm-(.+)-{VM_END_PATTERN}")
#: The submitter's own id of a job. It does not end as ``id.index`` does, which names one job of an array.
JOB_ID_PATTERN = r"^(?!.*\.[0-9]+$)[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$(?!\n)"
#: ``owner/id.index``: one job everywhere in the system.
JOB_REF_PATTERN = r"^[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\.[1-9][0-9]{0,6}$(?!\n)"
SHA256_PATTERN = r"^[0-9a-f]{64}$(?!\n)"
#: The random end of a console's reply queue: no dash, so that ``<user>-<random>`` has one reading.
REPLY_PATTERN = r"^[a-z0-9]{0,32}$(?!\n)"

# A description says what its pattern allows, so that it can be told: see ``schemas.wanted``.
Principal = Annotated[
    str, Meta(pattern=PRINCIPAL_PATTERN, description="a principal: its kind, a dash and its id", examples=["vm-k3j4h5"])
]
JobId = Annotated[
    str,
    Meta(
        pattern=JOB_ID_PATTERN,
        description=(
            "letters, digits, '-', '_' and '.' only, at most 128, beginning with a letter or digit, and not ending with"
            " a dot and a number, which names one job of an array"
        ),
        examples=["run-7.v1"],
    ),
]
JobRef = Annotated[
    str, Meta(pattern=JOB_REF_PATTERN, description="the full name of one job", examples=["console-operator/hello-1.3"])
]
Sha256 = Annotated[
    str, Meta(pattern=SHA256_PATTERN, description="64 digits of a SHA-256, 0 to 9 and a to f, as sha256sum prints")
]
#: Names that people give, and that become a word of a routing key.
SHORT_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$(?!\n)"
_SHORT_NAME = "a to z, 0 to 9 and '-' inside, at most 42 characters"
VmName = Annotated[str, Meta(pattern=SHORT_NAME_PATTERN, description=_SHORT_NAME, examples=["atlas-1"])]
SnapshotName = Annotated[str, Meta(pattern=SHORT_NAME_PATTERN, description=_SHORT_NAME, examples=["before-upgrade"])]
SiteName = Annotated[str, Meta(pattern=SHORT_NAME_PATTERN, description=_SHORT_NAME, examples=["cern"])]
MessageId = Annotated[str, Meta(min_length=1, max_length=64)]
Index = Annotated[int, Meta(ge=1, le=1_000_000)]


class Kind(StrEnum):
    """What a principal is: the word before the first dash of its name."""

    HOST = "host"
    VM = "vm"
    SITE = "site"
    ADAPTER = "adapter"
    CONSOLE = "console"
    ONCE = "once"
    KEYS = "keys"


_KINDS = {str(kind): kind for kind in Kind}


def kind_of(principal: str) -> Kind | None:
    """Say what a principal is, by its name alone; None for what begins as none does."""
    return _KINDS.get(principal.partition("-")[0])


def uuid7() -> str:
    """Make a UUID of version 7 (RFC 9562): unique, and sorted by the millisecond in which it was made."""
    stamp = time.time_ns() // 1_000_000
    number = (stamp & (1 << 48) - 1) << 80 | 7 << 76 | int.from_bytes(os.urandom(10)) & (1 << 76) - 1
    return str(UUID(int=number & ~(3 << 62) | 2 << 62))


def unguessable(kind: str) -> str:
    """Make a principal's name that nobody can guess: ``kind-`` and 80 random bits."""
    return f"{kind}-{secrets.token_hex(10)}"


def new_vm(host: str) -> str:
    """Make the name of a new VM of a host: it says whose it is, to the broker and to everybody else."""
    return f"vm-{host.removeprefix('host-')}-{secrets.token_hex(5)}"


def host_of(vm: str) -> str:
    """Name the host whose VM it is, by its name alone; empty for what is no VM's name."""
    found = _VM.fullmatch(vm)
    return f"host-{found[1]}" if found else ""


def job_ref(owner: str, job_id: str, index: int) -> JobRef:
    """Name one job: ``owner/id.index``."""
    return f"{owner}/{job_id}.{index}"


def split_job_ref(ref: JobRef) -> tuple[str, str, int]:
    """Take a job's name apart into owner, id and index. Raises ValueError for what is not one."""
    owner, _, rest = ref.partition("/")
    job_id, _, index = rest.rpartition(".")
    return owner, job_id, int(index)
