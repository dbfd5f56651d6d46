"""A virtual machine as the host agent sees it: its states, its verbs, and which verb is legal in which state.

The words are VirtualBox's. The table below is the only place that says what may follow what; drivers, commands and
the documentation read it. Nothing here talks to a hypervisor.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class VmState(StrEnum):
    """What a hypervisor says about a VM; ``unknown`` means it could not be asked."""

    ABSENT = "absent"
    POWEREDOFF = "poweredoff"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SAVING = "saving"
    SAVED = "saved"
    RESTORING = "restoring"
    STOPPING = "stopping"
    STUCK = "stuck"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Verb(StrEnum):
    """What may be asked of a VM."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    RESET = "reset"
    POWEROFF = "poweroff"
    SAVESTATE = "savestate"
    DELETE = "delete"


class Transition(msgspec.Struct, frozen=True):
    """One verb: the states it starts from, the state it passes through, the state it ends in."""

    legal_from: frozenset[VmState]
    through: VmState
    goal: VmState
    #: States in which the verb has nothing to do and succeeds at once.
    done_in: frozenset[VmState]
    #: The verb raises the boot generation: the guest that comes up is a new one, or an old one moved in time.
    raises_generation: bool = False


_S = VmState
_EVERY_STATE = frozenset(VmState) - {VmState.ABSENT}

#: The whole life of a VM. ``poweroff`` is legal wherever a VM exists: no state may trap it.
TRANSITIONS: dict[Verb, Transition] = {
    Verb.CREATE: Transition(frozenset({_S.ABSENT}), _S.ABSENT, _S.POWEREDOFF, _EVERY_STATE),
    Verb.START: Transition(
        frozenset({_S.POWEREDOFF, _S.ABORTED, _S.SAVED}), _S.STARTING, _S.RUNNING, frozenset({_S.RUNNING}), True
    ),
    Verb.STOP: Transition(
        frozenset({_S.RUNNING}), _S.STOPPING, _S.POWEREDOFF, frozenset({_S.POWEREDOFF, _S.ABORTED, _S.SAVED})
    ),
    Verb.PAUSE: Transition(frozenset({_S.RUNNING}), _S.PAUSING, _S.PAUSED, frozenset({_S.PAUSED})),
    Verb.RESUME: Transition(frozenset({_S.PAUSED}), _S.PAUSED, _S.RUNNING, frozenset({_S.RUNNING})),
    Verb.RESET: Transition(frozenset({_S.RUNNING, _S.PAUSED, _S.STUCK}), _S.STARTING, _S.RUNNING, frozenset(), True),
    Verb.POWEROFF: Transition(
        _EVERY_STATE, _S.STOPPING, _S.POWEREDOFF, frozenset({_S.POWEREDOFF, _S.ABORTED, _S.SAVED})
    ),
    Verb.SAVESTATE: Transition(frozenset({_S.RUNNING, _S.PAUSED}), _S.SAVING, _S.SAVED, frozenset({_S.SAVED})),
    Verb.DELETE: Transition(
        frozenset({_S.POWEREDOFF, _S.ABORTED, _S.SAVED}), _S.STOPPING, _S.ABSENT, frozenset({_S.ABSENT})
    ),
}


def is_done(verb: Verb, state: VmState) -> bool:
    """Say whether ``verb`` has nothing left to do in ``state``."""
    return state in TRANSITIONS[verb].done_in


def is_legal(verb: Verb, state: VmState) -> bool:
    """Say whether ``verb`` may be carried out from ``state``."""
    return state in TRANSITIONS[verb].legal_from
