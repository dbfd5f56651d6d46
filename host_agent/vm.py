"""What may be asked of a virtual machine, and what it shall be; ``host_agent.verbs`` says what each verb does."""

from __future__ import annotations

from enum import StrEnum


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
    DISCARD = "discard"
    TAKE_SNAPSHOT = "take_snapshot"
    RESTORE_SNAPSHOT = "restore_snapshot"
    DELETE_SNAPSHOT = "delete_snapshot"
    ADOPT = "adopt"
    DELETE = "delete"


class Wish(StrEnum):
    """What a VM shall be from now on, as somebody said last; it outlives the agent."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"
