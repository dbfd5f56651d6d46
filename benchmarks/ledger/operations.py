"""What is done with a ledger all day, one at a time, and how much of the processor each takes.

The time is the thread's own, the database's included, since it works in the same thread: what else the machine does
does not count, nor does the wait for the disk, which is the same at every size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from adapters.ledger import assignments, history, leases, listing, orders, queries, registry, showing
from benchmarks.ledger.world import World, busy, host_name, idle, job, owner, request, vm_name
from schemas.envelope import Message
from schemas.events import EventList, HostShow, VmShow
from schemas.ledger import HostList, JobCancel, JobList, JobShow, JobState, RegistryList
from schemas.vms import VmState

#: Times that each is done.
REPEATS = 30
#: Rows of a page: as many as there are of each kind in the smallest world too.
ROWS, HOSTS = 20, 5

Operation = Callable[[World, int], object]


def _submit(world: World, nth: int) -> None:
    world.submit((owner(nth), job(f"one-{nth}", 10_000_000)))


def _submit_to_idle(world: World, nth: int) -> None:
    assert world.submit((owner(nth), job(f"small-{nth}", 1)))


def _match(world: World, nth: int) -> None:
    assert world.ask((vm_name(nth), request(busy(nth), slot=9)))


def _ask_in_vain(world: World, nth: int) -> None:
    last = world.vms - 1 - nth
    world.ask((vm_name(last), request(idle(last))))


def _beat(world: World, nth: int) -> None:
    world.beat(world.running[nth])


def _complete(world: World, nth: int) -> None:
    assert world.complete([world.running.pop()], busy(nth))


def _ask_about(question: Message) -> Operation:
    work = {JobList: listing.list_jobs, JobShow: queries.show, HostList: registry.hosts, RegistryList: registry.vms}
    answer = work[type(question)]
    return lambda world, _: world.ledger.read(lambda tx: answer(tx, question))


def _show(world: World, nth: int) -> None:
    ref = world.running[nth].job
    world.ledger.read(lambda tx: queries.show(tx, JobShow(job=ref)))


def _vm(pattern: Callable[[int], str]) -> Operation:
    return lambda world, nth: world.ledger.read(lambda tx: registry.vms(tx, RegistryList(pattern=pattern(nth))))


def _report(world: World, nth: int) -> None:
    world.report(nth)


def _change(world: World, nth: int) -> None:
    """Two reports, the second of which tells of VMs in another state."""
    world.report(nth, state=VmState.PAUSED)
    world.report(nth)


def _events(**fields: Any) -> Operation:
    """Ask for events, as one who follows does."""

    def ask(world: World, _: int) -> None:
        question = EventList(**{"after": world.last_event() - ROWS} | fields)
        world.ledger.read(lambda tx: history.events(tx, question))

    return ask


def _sweep(world: World, _: int) -> None:
    world.ledger.write(leases.expire)
    world.ledger.write(assignments.match_all)
    world.ledger.read(queries.stats)


def _cancel(world: World, _: int) -> None:
    world.write(lambda tx: orders.cancel(tx, JobCancel(job=world.array)))


#: By what the table calls it.
OPERATIONS: dict[str, Operation] = {
    "show a job": _show,
    "a page of all jobs": _ask_about(JobList(limit=ROWS)),
    "a page of an owner's jobs": _ask_about(JobList(owner="site-3", limit=ROWS)),
    "a page of an owner's cancelled jobs": _ask_about(JobList(owner="site-3", limit=ROWS, states=[JobState.CANCELLED])),
    "a page of an array's waiting jobs": _ask_about(JobList(job="array", states=[JobState.SUBMITTED], limit=ROWS)),
    "a poll of --wait on an array": _ask_about(JobList(job="array", limit=1)),
    "a page of VMs": _ask_about(RegistryList(limit=ROWS)),
    "a VM by its name": _vm(lambda nth: f"name-{nth:06}"),
    "a VM by its id": _vm(vm_name),
    "a page of hosts": _ask_about(HostList(limit=HOSTS)),
    "submit a job that waits": _submit,
    "submit a job to an idle slot": _submit_to_idle,
    "match: a slot asks and is given a job": _match,
    "beat": _beat,
    "completion, and the next job": _complete,
    "report of a host": _report,
    "reports that change a host's VMs": _change,
    "a page of events after a number": _events(),
    "a question of one who has all events": _events(after=1 << 50),
    "the last events of a VM": _events(after=0, pattern=vm_name(1), newest=ROWS),
    "show a host": lambda world, nth: world.ledger.read(lambda tx: showing.host(tx, HostShow(host=host_name(nth)))),
    "show a VM": lambda world, nth: world.ledger.read(lambda tx: showing.vm(tx, VmShow(vm=vm_name(nth)))),
}
#: Measured without a goal: who asks in vain is compared with every kind that waits, the sweep looks at everything, and
#: a portion of an order is what there is, 1,000 jobs at most. The last changes the most, so it is done last.
IN_VAIN, SWEEP, CANCEL = "a slot asks in vain", "sweep", "cancel: a portion of an array"


def measure(world: World, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Do each operation so often; give what each took, ms."""
    times = {}
    for name, operation in {SWEEP: _sweep, IN_VAIN: _ask_in_vain, **OPERATIONS, CANCEL: _cancel}.items():
        say(name)
        times[name] = [_timed(world, operation, nth) for nth in range(_repeats(name, world))]
    return times


def _repeats(name: str, world: World) -> int:
    if name == CANCEL:
        return max(1, min(REPEATS, world.jobs // 4 // orders.PORTION))
    return min(REPEATS, world.vms // 20)


def _timed(world: World, operation: Operation, nth: int) -> float:
    began = time.thread_time()
    operation(world, nth)
    return (time.thread_time() - began) * 1000
