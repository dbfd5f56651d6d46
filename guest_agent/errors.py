"""What can go wrong inside a VM.

GuestError
├── AttemptFailed            an attempt is at its end, with an outcome and a cause that its owner reads
├── CannotRun                a command or payload could not be started; nothing of it ran
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

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.number = number


class BadPath(GuestError):
    """The path is not below the area that it is confined to."""

    code = ErrorCode.FORBIDDEN


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


class NotFromHost(GuestError):
    """An input is not to be had from the host; the centre has it."""
