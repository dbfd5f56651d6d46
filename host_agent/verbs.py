"""Which verb is legal in which state of a VM, what it makes of it, and how a driver does it: a row a verb.

This is the only place that says what may follow what; the commands that the agent takes, their order and the pages are
made from it. Nothing here talks to a hypervisor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from host_agent.errors import Unsupported
from host_agent.hypervisors.contract import Capabilities, Hypervisor, Snapshots
from host_agent.snapshots import check_free, check_there
from host_agent.vm import Verb, Wish
from schemas.vms import (
    VmAdopt,
    VmCommand,
    VmDelete,
    VmDeleteSnapshot,
    VmDiscard,
    VmPause,
    VmPoweroff,
    VmReset,
    VmRestoreSnapshot,
    VmResume,
    VmSavestate,
    VmStart,
    VmState,
    VmStop,
    VmTakeSnapshot,
)

#: How long a guest may take to shut down where nobody says it, seconds.
STOP_S = 60.0


class More(NamedTuple):
    """What a command may hold beside the VM's name; its fields have the same names."""

    #: How long the guest may take where it is asked, seconds.
    timeout_s: float = STOP_S
    #: The snapshot that is meant.
    snapshot: str = ""


class DriverOrder(NamedTuple):
    """What is asked of a driver."""

    vm: str
    more: More = More()
    #: What the guest that comes up is to find; empty where none does.
    seed: bytes = b""


#: Has a driver carry out a verb.
Do = Callable[[Hypervisor, DriverOrder], Awaitable[None]]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One verb: the states it starts from, the state it passes through, the state it ends in."""

    legal_from: frozenset[VmState]
    #: None: the state that it has.
    through: VmState | None = None
    #: None: the VM stays what it is.
    goal: VmState | None = None
    #: States in which the verb has nothing to do and succeeds at once.
    done_in: frozenset[VmState]
    #: Where it ends from some states, if not in ``goal``.
    goal_from: dict[VmState, VmState] = {}
    #: The command that asks for it; None where the command holds more than the VM's name.
    message: type[VmCommand] | None = None
    #: How it is done; None where it is not the driver's alone.
    do: Do | None = None
    #: Raises HostError where it cannot be done, before anything is changed for it.
    check: Do | None = None
    #: Which of the driver's ``Capabilities`` it takes, beside what every driver can; empty: none.
    port: str = ""
    #: A goal and not a step: a command that a crash has cut off is carried out again.
    repeatable: bool = True
    #: What the VM shall be from now on.
    wish: Wish | None = None
    #: The wish is one as soon as the verb is asked for; else only once it has succeeded.
    wishes_at_once: bool = True
    #: What it shall be where the verb may end in several states, by the state in which it has.
    wish_in: dict[VmState, Wish] = {}
    #: States from which the guest goes on with clocks that stood still.
    wakes_from: frozenset[VmState] = frozenset()
    #: The verb raises the boot generation: the guest that comes up is a new one, or an old one moved in time.
    raises_generation: bool = False
    #: The VM takes cpus and memory of its host from then on: refused where the host's limits leave none.
    takes_room: bool = False
    #: It keeps the VM's memory on the host's disk: refused where the host's limits leave no room for that.
    keeps_memory: bool = False
    #: Cuts short what is at work on the VM, and what waits for its turn.
    interrupts: bool = False
    #: May be cut short: the driver then leaves what it would leave after a failure.
    interruptible: bool = False


def cannot(driver: Hypervisor, what: str) -> Unsupported:
    """Say that a driver lacks the port that it takes."""
    return Unsupported(
        f"{what.replace('_', ' ')}: the {driver.name} driver cannot do that; {driver.capabilities.notes}".rstrip("; ")
    )


def snapshots_of(driver: Hypervisor) -> Snapshots:
    """Give the port of a driver that keeps memory on disk. Raises Unsupported."""
    if (port := driver.capabilities.snapshots) is None:
        raise cannot(driver, "snapshots")
    return port


async def _check_free(driver: Hypervisor, order: DriverOrder) -> None:
    check_free(order.vm, order.more.snapshot, await snapshots_of(driver).list(order.vm))


async def _check_there(driver: Hypervisor, order: DriverOrder) -> None:
    check_there(order.vm, order.more.snapshot, await snapshots_of(driver).list(order.vm))


_S = VmState
_EVERY_STATE = frozenset(VmState) - {VmState.ABSENT}
#: Without a process, and with nothing kept but the disk.
_DOWN = AT_REST = frozenset({_S.POWEREDOFF, _S.ABORTED})

#: The whole life of a VM. ``poweroff`` is legal wherever a VM exists: no state may trap it.
TRANSITIONS: dict[Verb, Transition] = {
    Verb.CREATE: Transition(
        legal_from=frozenset({_S.ABSENT}), through=_S.ABSENT, goal=_S.POWEREDOFF, done_in=_EVERY_STATE
    ),
    Verb.START: Transition(
        message=VmStart,
        do=lambda driver, order: driver.start(order.vm, order.seed),
        legal_from=_DOWN | {_S.SAVED},
        through=_S.STARTING,
        goal=_S.RUNNING,
        done_in=frozenset({_S.RUNNING}),
        wish=Wish.RUNNING,
        wakes_from=frozenset({_S.SAVED}),
        raises_generation=True,
        takes_room=True,
        interruptible=True,
    ),
    Verb.STOP: Transition(
        message=VmStop,
        do=lambda driver, order: driver.stop(order.vm, order.more.timeout_s),
        legal_from=frozenset({_S.RUNNING}),
        through=_S.STOPPING,
        goal=_S.POWEREDOFF,
        done_in=_DOWN | {_S.SAVED},
        wish=Wish.OFF,
        interruptible=True,
    ),
    Verb.PAUSE: Transition(
        message=VmPause,
        do=lambda driver, order: driver.pause(order.vm),
        legal_from=frozenset({_S.RUNNING}),
        through=_S.PAUSING,
        goal=_S.PAUSED,
        done_in=frozenset({_S.PAUSED}),
        wish=Wish.PAUSED,
        wishes_at_once=False,
        interruptible=True,
    ),
    Verb.RESUME: Transition(
        message=VmResume,
        do=lambda driver, order: driver.resume(order.vm),
        # Stuck: a disk that had no room has some again.
        legal_from=frozenset({_S.PAUSED, _S.STUCK}),
        through=_S.PAUSED,
        goal=_S.RUNNING,
        done_in=frozenset({_S.RUNNING}),
        wish=Wish.RUNNING,
        wakes_from=frozenset({_S.PAUSED, _S.STUCK}),
        interruptible=True,
    ),
    Verb.RESET: Transition(
        message=VmReset,
        do=lambda driver, order: driver.reset(order.vm, order.seed),
        repeatable=False,
        legal_from=frozenset({_S.RUNNING, _S.PAUSED, _S.STUCK}),
        through=_S.STARTING,
        goal=_S.RUNNING,
        done_in=frozenset(),
        wish=Wish.RUNNING,
        raises_generation=True,
        interruptible=True,
    ),
    Verb.POWEROFF: Transition(
        message=VmPoweroff,
        do=lambda driver, order: driver.poweroff(order.vm),
        legal_from=_EVERY_STATE,
        through=_S.STOPPING,
        goal=_S.POWEREDOFF,
        done_in=_DOWN | {_S.SAVED},
        goal_from={_S.SET_ASIDE: _S.SET_ASIDE, _S.MISSING: _S.MISSING},
        wish=Wish.OFF,
        interrupts=True,
    ),
    Verb.SAVESTATE: Transition(
        message=VmSavestate,
        do=lambda driver, order: snapshots_of(driver).savestate(order.vm),
        keeps_memory=True,
        port="snapshots",
        legal_from=frozenset({_S.RUNNING, _S.PAUSED}),
        through=_S.SAVING,
        goal=_S.SAVED,
        done_in=frozenset({_S.SAVED}),
        wish=Wish.OFF,
        wishes_at_once=False,
        interruptible=True,
    ),
    Verb.DISCARD: Transition(
        message=VmDiscard,
        do=lambda driver, order: snapshots_of(driver).discard(order.vm),
        port="snapshots",
        legal_from=frozenset({_S.SAVED, _S.SET_ASIDE}),
        through=_S.STOPPING,
        goal=_S.POWEREDOFF,
        done_in=_DOWN | {_S.ABSENT},
        goal_from={_S.SET_ASIDE: _S.ABSENT},
        wish=Wish.OFF,
    ),
    Verb.TAKE_SNAPSHOT: Transition(
        message=VmTakeSnapshot,
        do=lambda driver, order: snapshots_of(driver).take(order.vm, order.more.snapshot),
        keeps_memory=True,
        check=_check_free,
        port="snapshots",
        repeatable=False,
        legal_from=frozenset({_S.RUNNING, _S.PAUSED}),
        through=_S.SAVING,
        done_in=frozenset(),
        wakes_from=frozenset({_S.RUNNING}),
        interruptible=True,
    ),
    Verb.RESTORE_SNAPSHOT: Transition(
        message=VmRestoreSnapshot,
        do=lambda driver, order: snapshots_of(driver).restore(order.vm, order.more.snapshot, order.seed),
        check=_check_there,
        port="snapshots",
        repeatable=False,
        legal_from=_DOWN | {_S.SAVED, _S.RUNNING, _S.PAUSED, _S.STUCK},
        through=_S.RESTORING,
        goal=_S.RUNNING,
        done_in=frozenset(),
        wish_in={_S.RUNNING: Wish.RUNNING, _S.PAUSED: Wish.PAUSED},
        wakes_from=_DOWN | {_S.SAVED, _S.RUNNING, _S.PAUSED, _S.STUCK},
        raises_generation=True,
        takes_room=True,
        interruptible=True,
    ),
    Verb.DELETE_SNAPSHOT: Transition(
        message=VmDeleteSnapshot,
        do=lambda driver, order: snapshots_of(driver).delete(order.vm, order.more.snapshot),
        port="snapshots",
        legal_from=_DOWN | {_S.SAVED, _S.RUNNING, _S.PAUSED, _S.STUCK},
        done_in=frozenset(),
        interruptible=True,
    ),
    # What it ends in is what the VM was all the time; the registry did not know it.
    Verb.ADOPT: Transition(
        message=VmAdopt,
        legal_from=frozenset({_S.SET_ASIDE}),
        through=_S.SET_ASIDE,
        goal=_S.POWEREDOFF,
        done_in=_EVERY_STATE - {_S.SET_ASIDE},
    ),
    Verb.DELETE: Transition(
        message=VmDelete,
        legal_from=_DOWN | {_S.SAVED, _S.MISSING},
        through=_S.STOPPING,
        goal=_S.ABSENT,
        done_in=frozenset({_S.ABSENT}),
    ),
}


def verb_of(command: type[VmCommand]) -> Verb:
    """Say which verb a command asks for. Raises KeyError for a command that no row names."""
    return next(verb for verb, row in TRANSITIONS.items() if row.message is command)


def more_of(command: VmCommand) -> More:
    """Take out of a command what it holds beside the VM's name."""
    return More(**{field: getattr(command, field) for field in More._fields if field in command.__struct_fields__})


def can(capabilities: Capabilities, verb: Verb) -> bool:
    """Say whether a driver carries out ``verb`` at all."""
    port = TRANSITIONS[verb].port
    return not port or getattr(capabilities, port) is not None


def is_done(verb: Verb, state: VmState) -> bool:
    """Say whether ``verb`` has nothing left to do in ``state``."""
    return state in TRANSITIONS[verb].done_in


def is_legal(verb: Verb, state: VmState) -> bool:
    """Say whether ``verb`` may be carried out from ``state``."""
    return state in TRANSITIONS[verb].legal_from


def goal_of(verb: Verb, state: VmState) -> VmState:
    """Say in which state ``verb`` ends that is carried out from ``state``."""
    row = TRANSITIONS[verb]
    return row.goal_from.get(state, row.goal or state)
