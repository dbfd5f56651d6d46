"""What can go wrong inside a VM.

GuestError
├── CannotRun        a command or payload could not be started; nothing of it ran
├── BadPath          a path leaves the area that it is confined to
└── NotEnrolled      the credential was refused and no newer seed is to be had yet

``code`` is the word on the wire (``schemas.errors.ErrorCode``).
"""

from __future__ import annotations

from schemas.errors import ErrorCode


class GuestError(Exception):
    """Base of every error of the guest agent."""

    code = ErrorCode.INTERNAL


class CannotRun(GuestError):
    """The program does not exist, is not executable, or its directory is not there."""

    code = ErrorCode.CANNOT_RUN


class BadPath(GuestError):
    """The path is not below the area that it is confined to."""

    code = ErrorCode.FORBIDDEN


class NotEnrolled(GuestError):
    """The centre gave no credential."""

    code = ErrorCode.FORBIDDEN
