"""What can go wrong inside a VM.

GuestError
├── AttemptFailed            an attempt is at its end, with an outcome and a cause that its owner reads
├── CannotRun                a command or payload could not be started; nothing of it ran
├── InputBroken              a command's standard input did not come whole and in order; it was killed
├── NoSuchExec               no command of that id is here, or it has ended: look at the list
├── NotYours                 a command belongs to another principal
├── ExecInterrupted          a command that somebody follows did not end by itself, or nobody follows it any more
├── SpoolFailed              the disk does not take what a command would print: make room
├── ExecBusy                 somebody is attached to a command, or too many run: end one, or wait
├── BadPath                  a path leaves the area that it is confined to
├── PathEscapes              a name in a job's directory leads out of it
├── TooMany                  a pattern matches more files than anybody could be told of
├── NotContained             the processes of a job slot could not be started apart, or not be ended
├── NotFromHost              the host has an input not for us, or is too slow: fetch it from the centre
└── NotEnrolled              the credential was refused and no newer seed is to be had yet

``code`` is the word on the wire (``schemas.errors.ErrorCode``).
"""

from __future__ import annotations

from schemas.errors import ErrorCode
from schemas.jobs import Outcome

#: What to do about processes that do not end.
RESET = "`volcloud vm reset VM` brings it up anew"


class GuestError(Exception):
    """Base of every error of the guest agent."""

    code = ErrorCode.INTERNAL


class AttemptFailed(GuestError):
    """The attempt did not end well: ``outcome`` says whose fault that is, ``cause`` why, in words for its owner."""

    def __init__(self, outcome: Outcome, cause: str) -> None:
        super().__init__(cause)
        self.outcome, self.cause = outcome, cause


class CannotRun(GuestError):
    """The program does not exist, is not executable, or its directory is not there. ``number`` is the kernel's."""

    code = ErrorCode.CANNOT_RUN

    def __init__(self, text: str, number: int = 0, *, hint: str = "") -> None:
        super().__init__(text)
        self.number, self.hint = number, hint


class InputBroken(GuestError):
    """A piece of the input never came, or came without room for it."""

    code = ErrorCode.INTERNAL
    hint = "run it again; what is large is pushed as a file first: `volcloud vm push`"


class NoSuchExec(GuestError):
    """No command of that id is here."""

    code = ErrorCode.NOT_FOUND
    hint = "`volcloud vm ps` lists them"


class NotYours(GuestError):
    """Another principal began the command."""

    code = ErrorCode.FORBIDDEN
    hint = "`volcloud vm ps` says who began which"


class ExecInterrupted(GuestError):
    """The command did not end by itself, or who followed it does so no more."""

    code = ErrorCode.INTERRUPTED
    hint = "`volcloud vm ps` says how it stands"


class SpoolFailed(GuestError):
    """The disk does not take what a command would print."""

    code = ErrorCode.STORE
    hint = "make room on the VM's disk, then run it again"


class ExecBusy(GuestError):
    """Somebody else is at it, or the VM has as many commands as it may."""

    code = ErrorCode.CONFLICT

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class BadPath(GuestError):
    """The path is not below the area that it is confined to."""

    code = ErrorCode.FORBIDDEN

    def __init__(self, text: str, *, hint: str = "name a place below it") -> None:
        super().__init__(text)
        self.hint = hint


class NotEnrolled(GuestError):
    """The centre gave no credential."""

    code = ErrorCode.FORBIDDEN


class PathEscapes(GuestError):
    """The name is that of a link out of the directory, or no name of a place in it."""

    code = ErrorCode.FORBIDDEN


class TooMany(GuestError):
    """More than ``most`` files or directories match."""

    def __init__(self, most: int) -> None:
        super().__init__(f"more than {most}")
        self.most = most


class NotContained(GuestError):
    """A slot's starter is gone or silent, or processes of a job do not end: nothing may run in the slot."""

    code = ErrorCode.INTERNAL

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class NotFromHost(GuestError):
    """An input is not to be had from the host; the centre has it."""
