"""What sites, consoles and clients say to the centre about jobs, hosts and VMs, and what it answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.description import JobDescription
from schemas.envelope import Message, Reply
from schemas.ids import JobRef
from schemas.jobs import OutputEntry, Steps, Usage
from schemas.vms import HostFacts, VmStatus

#: Jobs named in one listing or one order.
MAX_LISTED = 1000
#: Hosts or VMs in one page; a page of the longest rows fits a message.
MAX_ROWS = 500
Rows = Annotated[int, Meta(ge=1, le=MAX_ROWS)]


class JobState(StrEnum):
    """Where a job is, as the ledger has it."""

    SUBMITTED = "submitted"
    ASSIGNED = "assigned"
    STAGE_IN = "stage-in"
    RUNNING = "running"
    VALIDATING = "validating"
    STAGE_OUT = "stage-out"
    DONE = "done"
    CANCELLED = "cancelled"
    HELD = "held"


#: Such a job has ended, and no order but a delete changes that.
FINAL = frozenset({JobState.DONE, JobState.CANCELLED})
#: It changes by an order only; it is kept for a while, and then deleted.
SETTLED = FINAL | {JobState.HELD}
#: No guest has it: it waits for one, or for a person.
UNASSIGNED = frozenset({JobState.SUBMITTED, JobState.HELD})
#: A guest has it.
AT_WORK = frozenset(JobState) - FINAL - UNASSIGNED


class JobSubmit(Message, frozen=True, kw_only=True, tag="job.submit"):
    """A job or an array of them. The owner is the sender; the same id again is answered as before."""

    job: JobDescription


class JobVerdict(Reply, frozen=True, kw_only=True, tag="job.verdict"):
    """Accepted with its id, or refused with the reasons."""

    accepted: bool
    job: str
    count: int = 0
    reasons: list[str] = []


class JobList(Message, frozen=True, kw_only=True, tag="job.list"):
    """Ask for jobs, newest first."""

    owner: str = ""
    job: str = ""
    states: list[JobState] = []
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 100
    #: Only jobs whose number is below; the last row's ``number`` of the page before.
    before: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None


class JobRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job in a listing. Times are ms since 1970, 0 = not yet."""

    number: int
    job: JobRef
    state: JobState
    attempt: int
    priority: int = 0
    failures: int = 0
    losses: int = 0
    #: How often it was given back unbegun.
    returns: int = 0
    vm: str = ""
    submitted_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    reason: str = ""


class Jobs(Reply, frozen=True, kw_only=True, tag="reply.jobs"):
    """A page of jobs, and how many there are in each state of those asked for."""

    jobs: list[JobRow]
    counts: dict[str, int] = {}


class JobShow(Message, frozen=True, kw_only=True, tag="job.show"):
    """Ask for all that is known of one job."""

    job: JobRef


class JobEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A thing that happened to a job: what, when, who noticed."""

    at_ms: int
    attempt: int
    event: str
    noticed_by: str
    detail: str = ""


class AttemptRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of a job."""

    attempt: int
    state: str
    vm: str
    vm_name: str = ""
    host: str = ""
    slot: int = 0
    vm_generation: int = 0
    assigned_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    exit_status: int = -1
    cause: str = ""
    usage: Usage = Usage()
    steps: Steps = Steps()
    outputs: list[OutputEntry] = []
    #: Evidence of where it ran: the guest kernel's boot id and the hypervisor's process on the host.
    boot_id: str = ""
    hypervisor: str = ""
    hypervisor_pid: int = 0


class JobRecord(Reply, frozen=True, kw_only=True, tag="reply.job"):
    """All that is known of one job, why it is where it is, and what a person can do about it.

    ``waiting_for`` names the requirements that no VM meets.
    """

    job: JobRow
    description: JobDescription
    attempts: list[AttemptRow] = []
    events: list[JobEvent] = []
    cause: str = ""
    waiting_for: list[str] = []
    next_step: str = ""


class JobCancel(Message, frozen=True, kw_only=True, tag="job.cancel"):
    """Cancel a job, or with ``id`` alone all of its array. Final with the answer; a guest that has one is told."""

    owner: str = ""
    job: str


class JobRetry(Message, frozen=True, kw_only=True, tag="job.retry"):
    """Release held jobs: their counts start again."""

    owner: str = ""
    job: str


class JobDelete(Message, frozen=True, kw_only=True, tag="job.delete"):
    """Delete a job, or with ``id`` alone all of its array, with outputs and history. What waits or runs is left."""

    owner: str = ""
    job: str


class JobsChanged(Reply, frozen=True, kw_only=True, tag="reply.jobs_changed"):
    """How many jobs the order changed, and how many of them a guest has, which is told to stop.

    Of a delete, ``pending`` are those that were left, since they wait or run.

    ``more``: it takes longer, so this is a part of it; whoever gives the order again gets the next.
    """

    changed: int
    pending: int = 0
    more: bool = False


class HostList(Message, frozen=True, kw_only=True, tag="host.list"):
    """Ask for a page of the hosts that the centre knows, by id."""

    limit: Rows = 200
    #: ``next`` of the page before.
    after: str = ""


class HostRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host as the centre last heard of it."""

    host: str
    facts: HostFacts
    seen_ms: int
    #: It is there, or late at most.
    present: bool
    vms: int = 0
    #: ``present``, ``late`` (two beats missed), ``lost`` (three), or ``absent``: its agent has said that it stops.
    presence: str = "present"


class Hosts(Reply, frozen=True, kw_only=True, tag="reply.hosts"):
    """A page of the hosts that the centre knows; ``next`` asks for the one after it, empty = this was the last."""

    hosts: list[HostRow]
    next: str = ""


class RegistryList(Message, frozen=True, kw_only=True, tag="registry.list"):
    """Ask for a page of the VMs that the centre knows; ``pattern`` is a shell pattern on their names and ids."""

    pattern: str = "*"
    limit: Rows = 200
    #: ``next`` of the page before.
    after: str = ""


class RegistryRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM as the centre last heard of it."""

    host: str
    status: VmStatus
    seen_ms: int
    #: The guest agent has answered within its last three beats, and the VM is not one whose host has set it aside.
    agent_ready: bool = False
    agent_since_ms: int = 0
    jobs: list[str] = []
    #: ``presence`` of its host; empty until that was heard of.
    host_presence: str = ""


class Registry(Reply, frozen=True, kw_only=True, tag="reply.registry"):
    """A page of VMs by name; ``next`` asks for the one after it, empty = this was the last. A page may be short."""

    vms: list[RegistryRow]
    next: str = ""
