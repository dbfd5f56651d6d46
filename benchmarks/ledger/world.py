"""A ledger as a centre has it after a while: hosts, machines of many sizes, a history, and a backlog of many kinds.

Made by the ledger's own functions, hundreds of messages a transaction. Every second kind of job that waits fits nobody,
and half of the machines idle, since nothing fits them: what makes matching slow where it looks at everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

from adapters.ledger import assignments, completions, history, inventory, leases, outbox, requests, submissions
from adapters.ledger.deferred import Deferred
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import OutboxRow, Tx
from schemas.codec import decode, unbundle
from schemas.description import JobDescription, Requirements
from schemas.events import EventList
from schemas.jobs import Holding, JobAssign, JobBeat, JobCompletion, JobRequest, Machine, Outcome, Phase
from schemas.ledger import JobSubmit
from schemas.vms import HostFacts, HostInventory, VmState, VmStatus

T = TypeVar("T")

#: VMs of a host now, and those that it has had and deleted.
VMS_OF_HOST, GONE_OF_HOST = 20, 60
#: Jobs of one shape, in the part of the backlog that is of many shapes.
JOBS_OF_SHAPE = 20
#: Messages a transaction, as in an adapter under load.
BATCH = 400
#: Machines of one size.
VMS_OF_SIZE = 100
OWNERS = 10
_FACTS = HostFacts(
    hostname="pc", platform="linux/x86_64", cpus=8, memory_mib=16384, free_disk_mib=90000, hypervisor="fake"
)


@dataclass
class World:
    """A ledger, and what is in it that operations are about."""

    ledger: Ledger
    jobs: int
    vms: int
    #: Jobs that run.
    running: list[JobAssign] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def array(self) -> str:
        """The id of the largest array, which waits."""
        return "array"

    def write(self, work: Callable[[Tx], T]) -> tuple[T, list[JobAssign]]:
        """Run ``work`` and match, as an adapter does; give what it gave and the assignments that were made."""

        def whole(tx: Tx) -> tuple[T, list[OutboxRow], Deferred]:
            result = work(tx)
            assignments.match(tx)
            return result, outbox.fresh(tx), tx.deferred

        result, rows, deferred = self.ledger.write(whole)
        self.ledger.write_lightly(lambda tx: outbox.tick(tx, [row.message_id for row in rows]))
        sent = [decode(body) for row in rows for body in unbundle(row.body)]
        made = [message for message in sent if isinstance(message, JobAssign)]
        return result, made + (self.write(lambda tx: assignments.go_on(tx, deferred))[1] if deferred else [])

    def submit(self, *jobs: tuple[str, JobDescription]) -> list[JobAssign]:
        """Submit jobs, each with its owner."""
        messages = [(owner, JobSubmit(job=job)) for owner, job in jobs]
        looked_at = [(owner, submissions.check(message, lambda _: True)) for owner, message in messages]
        return self.write(lambda tx: submissions.submit_all(tx, looked_at))[1]

    def ask(self, *asked: tuple[str, JobRequest]) -> list[JobAssign]:
        """Let slots ask for work."""
        return self.write(lambda tx: requests.ask_all(tx, asked))[1]

    def complete(self, ended: Sequence[JobAssign], request: Machine | None = None) -> list[JobAssign]:
        """End jobs well; the slot asks for the next in the same breath when its machine is given."""
        messages = [(job.target, _done(job, request)) for job in ended]
        return self.write(lambda tx: completions.complete_all(tx, messages))[1]

    def beat(self, job: JobAssign) -> None:
        """Let the guest of a running job beat."""
        holding = [Holding(job=job.job, attempt=job.attempt, phase=Phase.RUNNING)]
        beat = JobBeat(holding=holding, generation=1)
        self.ledger.write_lightly(lambda tx: leases.renew(tx, job.target, beat))

    def last_event(self) -> int:
        """Give the number of the newest event."""
        return self.ledger.read(lambda tx: history.events(tx, EventList(after=1 << 50))).last

    def report(self, host: int, extra: int = 0, state: VmState = VmState.RUNNING) -> None:
        """Let a host report its VMs in a state, and ``extra`` ones that it will delete."""
        names = [vm_name(number) for number in range(host * VMS_OF_HOST, (host + 1) * VMS_OF_HOST)]
        names += [f"vm-gone-{host}-{number}" for number in range(extra)]
        report = HostInventory(host=_FACTS, vms=[_status(name, state) for name in names], at_ms=next(self.numbers))
        self.ledger.write_lightly(lambda tx: inventory.report(tx, host_name(host), report))


def host_name(number: int) -> str:
    """Name a host."""
    return f"host-{number:05}"


def vm_name(number: int) -> str:
    """Name a VM."""
    return f"vm-{number:06}"


def busy(number: int) -> Machine:
    """Give the machine of a VM that works: what waits fits it."""
    return Machine(cpus=4, memory_mib=4096 + number // VMS_OF_SIZE, disk_mib=4096, platform="linux/x86_64")


def idle(number: int) -> Machine:
    """Give the machine of a VM for which nothing waits."""
    return Machine(cpus=1, memory_mib=512 + number // VMS_OF_SIZE, disk_mib=4096, platform="linux/x86_64")


def request(machine: Machine, slot: int = 0) -> JobRequest:
    """Ask for work for a slot of this machine."""
    return JobRequest(slot=slot, machine=machine, generation=1)


def job(job_id: str, memory_mib: int, *, array: int = 1) -> JobDescription:
    """Describe a job that asks for so much memory."""
    asked = Requirements(memory_mib=memory_mib)
    return JobDescription(id=job_id, executable="/bin/true", requirements=asked, array=array)


def owner(number: int) -> str:
    """Name an owner."""
    return f"site-{number % OWNERS}"


def build(path: Path, jobs: int, vms: int) -> World:
    """Make the world: half of ``jobs`` ended, half waiting; half of ``vms`` at work, half idle."""
    ledger = Ledger(f"sqlite:///{path}", instance="adapter-job-1")
    ledger.open()
    world = World(ledger, jobs, vms)
    for host in range(vms // VMS_OF_HOST):
        world.report(host, GONE_OF_HOST)
        world.report(host)
    _let_run(world, jobs // 2)
    _keep_busy(world)
    _let_wait(world, jobs // 2)
    return world


def _let_run(world: World, jobs: int) -> None:
    """Make the history."""
    for start in range(0, jobs, BATCH):
        some = min(BATCH, jobs - start)
        world.submit((owner(start // BATCH), job(f"past-{start}", 1, array=some)))
        world.complete(
            world.ask(*((vm_name(n % world.vms), request(busy(n), slot=n // world.vms)) for n in range(some)))
        )


def _keep_busy(world: World) -> None:
    half = world.vms // 2
    world.submit(("site-0", job("running", 1, array=half)))
    for start in range(0, half, BATCH):
        world.running += world.ask(*((vm_name(n), request(busy(n))) for n in range(start, min(start + BATCH, half))))
    for one in world.running:
        world.beat(one)
    for start in range(half, world.vms, BATCH):
        world.ask(*((vm_name(n), request(idle(n))) for n in range(start, min(start + BATCH, world.vms))))


def _let_wait(world: World, jobs: int) -> None:
    """Let one large array wait, and jobs of many kinds: every second kind fits nobody."""
    kinds = max(2, jobs // 2 // JOBS_OF_SHAPE)
    described = [
        (owner(n), job(f"kind-{n}", (10_000_000 if n % 2 else 3000) + n // 2 % 1000, array=JOBS_OF_SHAPE))
        for n in range(kinds)
    ]
    for start in range(0, kinds, BATCH):
        world.submit(*described[start : start + BATCH])
    world.submit(("site-1", job(world.array, 2048, array=jobs // 2)))


def _done(job: JobAssign, machine: Machine | None) -> JobCompletion:
    asked = request(machine, job.slot) if machine else None
    return JobCompletion(
        job=job.job, attempt=job.attempt, outcome=Outcome.DONE, exit_status=0, generation=1, request=asked
    )


def _status(vm: str, state: VmState) -> VmStatus:
    return VmStatus(
        vm=vm,
        name=vm.replace("vm-", "name-"),
        state=state,
        generation=1,
        hypervisor="fake",
        cpus=4,
        memory_mib=4096,
        disk_mib=4096,
    )
