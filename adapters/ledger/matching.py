"""Which waiting job goes to which free slot. Pure: values in, pairs out; ``assignments`` has the SQL.

The request whose job would begin first is served first, among equals the oldest, with the job of highest priority, then
lowest number, among those whose every requirement its machine meets. A job is compared by its shape, a request by its
offer (see ``classes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import NamedTuple, Protocol

from adapters.ledger.shares import Capacity
from schemas.description import JobDescription, Requirements
from schemas.ids import JobRef
from schemas.jobs import JobAssign, Machine


class Waiting(NamedTuple):
    """A job that waits."""

    #: Minus the priority; ``(rank, number)`` is the order of service.
    rank: int
    number: int
    shape: int
    ref: JobRef
    idx: int
    attempt: int
    submission: int
    submitted_ms: int
    #: The VM on which it went wrong, and until when it is for others.
    avoid_vm: str = ""
    avoid_until_ms: int = 0
    #: When it was submitted or released, by the lease clock.
    since_ms: int = 0

    def avoids(self, vm: str, lease_now_ms: int) -> bool:
        """Whether it is to be kept from this VM."""
        return vm == self.avoid_vm and lease_now_ms < self.avoid_until_ms

    @property
    def owner(self) -> str:
        """Whose job it is."""
        return self.ref.partition("/")[0]


class Free(NamedTuple):
    """A job slot that asked for work, and the VM that it is in."""

    vm: str
    slot: int
    offer: int
    request_id: str
    generation: int
    ahead: int
    asked_ms: int
    host: str
    hypervisor: str
    pid: int
    boot_id: str = ""
    #: What its VM has done wrong lately; see ``repute``.
    strikes: int = 0
    #: The shape of jobs for which the VM is kept free, and until when; 0 = of none.
    kept_for: int = 0
    kept_until_ms: int = 0
    #: What its guest has given back since it last finished a job.
    returns: int = 0
    #: It has a job that needs more than a slot's share.
    is_crowded: bool = False


class Fit(Enum):
    """What is said of a job and a free slot whose machine meets its requirements."""

    YES = "yes"
    #: Not there; others may have the job, and the slot another one.
    NO = "no"
    #: As NO, since it went wrong there and others are asked first.
    ELSEWHERE = "elsewhere"
    #: Not yet: the VM is kept free for it.
    WAIT = "wait"


Pair = tuple[Waiting, Free]


def unmet(asked: Requirements, machine: Machine) -> list[str]:
    """Name each requirement that the machine does not meet, with both values; empty when it may have the job."""
    numbers = [
        ("cpus", asked.cpus, machine.cpus),
        ("memory_mib", asked.memory_mib, machine.memory_mib),
        ("disk_mib", asked.disk_mib, machine.disk_mib),
    ]
    words = [("platform", asked.platform, machine.platform), ("image", asked.image, machine.image)]
    return [
        *(f"{name} = {want}: the VM has {has}" for name, want, has in numbers if has < want),
        *(f"{name} = {want!r}: the VM has {has or 'none'!r}" for name, want, has in words if want and want != has),
        *(
            f"feature {want!r}: the VM has {', '.join(machine.features) or 'none'}"
            for want in asked.features
            if want not in machine.features
        ),
    ]


def nearest(asked: Requirements, machines: Iterable[Machine]) -> list[str] | None:
    """Say what the machine that meets most does not meet; empty when one meets all, None when there is no machine."""
    return min((unmet(asked, machine) for machine in machines), key=len, default=None)


class Slots(Protocol):
    """Free slots in the order in which they are served, those of an offer left out when told to."""

    def __iter__(self) -> Iterator[Free]: ...
    def leave_out(self, offer: int) -> None: ...


class WaitingJobs(Protocol):
    """Waiting jobs, which are handed out once."""

    def first_for(self, free: Free, ask: Callable[[Waiting], Fit]) -> Waiting | None: ...
    @property
    def is_spent(self) -> bool: ...
    @property
    def was_refused(self) -> bool: ...


class Pool(Protocol):
    """The VMs that the slots are in."""

    def is_closed(self, free: Free) -> bool: ...
    def judge(self, job: Waiting, free: Free) -> Fit: ...
    def give(self, job: Waiting, free: Free) -> None: ...


def pair(slots: Slots, jobs: WaitingJobs, pool: Pool) -> Iterator[Pair]:
    """Pair free slots, in their order, each with the first job that it can take, and that ``pool`` lets it have.

    Reads no further in either than it must, so both may be pages of a database. Of an offer for which nothing is left
    no further slot is looked at.
    """
    for free in slots:
        if pool.is_closed(free):
            continue
        job = jobs.first_for(free, partial(_ask, pool, free))
        if job is not None:
            pool.give(job, free)
            yield job, free
        elif jobs.is_spent:
            return
        elif not jobs.was_refused:
            slots.leave_out(free.offer)


def _ask(pool: Pool, free: Free, job: Waiting) -> Fit:
    return pool.judge(job, free)


def assignment(job: Waiting, free: Free, description: JobDescription, may_have: Capacity) -> JobAssign:
    """Write the assignment of ``job``'s next attempt: all that the guest needs, its index put in."""
    index, attempt = str(job.idx), job.attempt + 1
    told = {
        "VOLCLOUD_JOB": job.ref,
        "VOLCLOUD_ARRAY_INDEX": index,
        "VOLCLOUD_ARRAY_SIZE": str(description.array),
        "VOLCLOUD_ATTEMPT": str(attempt),
    }
    return JobAssign(
        target=free.vm,
        generation=free.generation,
        job=job.ref,
        attempt=attempt,
        slot=free.slot,
        executable=description.executable,
        arguments=[argument.replace("{index}", index) for argument in description.arguments],
        environment=description.environment | told,
        inputs=description.inputs,
        outputs=description.outputs,
        validation=description.validation,
        wall_time_s=description.wall_time_s,
        cpus=may_have.cpus,
        memory_mib=may_have.memory_mib,
        disk_mib=may_have.disk_mib,
        grace_s=description.grace_s,
    )
