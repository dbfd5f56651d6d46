"""What can go wrong in this package, named after what the caller can do about it.

BrokerError
├── ConfigError              a setting is wrong: mend the file that the message names
├── NotDelivered             a publish did not succeed
│   ├── Unroutable           no queue is bound there: the receiver does not exist (any more)
│   ├── Nacked               the broker nacked it, a queue is full: wait, then publish again
│   ├── Disconnected         the outcome is unknown: publish again with the same id
│   │   └── Crowded          the principal has all the connections that it may: end one, or wait
│   └── Forbidden            the broker does not let this principal write that: mend the permission
├── LoginRefused             user, password or vhost are not accepted: enrol again, or mend the credential
├── Untrusted                the broker's certificate, or TLS itself, is not as the credential says: mend either
├── Stranger                 another user of this machine has the broker's port: nothing was sent, try again later
├── QueueGone                a queue that should be there is not, or may not be read: enrol again
├── CallTimeout              no answer in time; ``accepted`` tells whether the agent had it
├── RemoteError              the other side answered with an error; carries its code, message and hint
├── OutputLost               a command has ended, and some of what it wrote never came: run it again, or pull a file
├── TransferFailed           a file did not arrive; nothing under its name was changed
│   ├── PartialTaken         another receiver is at work on it: leave it alone, the sender asks on
│   └── RoomTaken            others have filled the disk: what came stays, offer or ask again later
├── NodeError                the private RabbitMQ node did not start or stop
├── ManagementError          the management API refused or could not be reached
├── Unreadable               octets of a message say nothing from here on: leave them, and what follows
├── FrameTooLong             a frame of a byte stream has no end within what one may have: leave the stream
└── Breach                   the other end of a local road does not keep to the rules: cut it off for a while

``Stranger`` is a ConnectionError too, for the libraries through whose hands it goes. pika's errors and the socket's are
mapped in ``broker.amqp.foreign`` and nowhere else.
"""

from __future__ import annotations

from schemas.errors import ErrorCode


class BrokerError(Exception):
    """Base of every error of this package."""

    code = ErrorCode.INTERNAL


class ConfigError(BrokerError):
    """A setting is wrong; the message names file, key, value and what is allowed."""


class NotDelivered(BrokerError):
    """A publish did not succeed."""


class Unroutable(NotDelivered):
    """No queue is bound to that key."""

    code = ErrorCode.NOT_FOUND


class Nacked(NotDelivered):
    """The broker nacked the message: a queue that it goes to is full."""


class Disconnected(NotDelivered):
    """The connection broke before the broker confirmed; the message may or may not be there."""


class Crowded(Disconnected):
    """The broker's limit for this principal is reached; it passes when one of its connections ends."""


class Forbidden(NotDelivered):
    """The broker does not let this principal write or read there."""

    code = ErrorCode.FORBIDDEN


class LoginRefused(BrokerError):
    """The broker does not accept the credential."""

    code = ErrorCode.FORBIDDEN


class Untrusted(BrokerError):
    """The other end cannot be told to be the broker: nothing was sent to it."""

    code = ErrorCode.FORBIDDEN


class Stranger(BrokerError, ConnectionError):
    """The other end belongs to another user than the broker's: nothing was sent to it."""


class QueueGone(BrokerError):
    """A queue to consume from does not exist or may not be read."""

    code = ErrorCode.NOT_FOUND


class CallTimeout(BrokerError):
    """No answer came before the deadline."""

    code = ErrorCode.TIMEOUT

    def __init__(self, message: str, *, accepted: bool = False) -> None:
        super().__init__(message)
        #: The agent journalled the command, so it is, or was, at work.
        self.accepted = accepted


class RemoteError(BrokerError):
    """The other side answered that it did not do it."""

    def __init__(self, code: ErrorCode, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint


class OutputLost(BrokerError):
    """A command has ended, and a reconnect cost some of its output."""

    hint = "send long output to a file in the VM and pull it"


class TransferFailed(BrokerError):
    """A file transfer ended without the file."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PartialTaken(TransferFailed):
    """Another receiver, of this process or another one, holds the partial file."""


class RoomTaken(TransferFailed):
    """Others have filled the disk up to its reserve: what came stays, and the transfer goes on when there is room."""


class NodeError(BrokerError):
    """The private node failed; the message names its log."""


class ManagementError(BrokerError):
    """The management API answered with an error, or not at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        #: HTTP status, or AMQP's reply code where that was asked; 0 where nothing answered.
        self.status = status


class Unreadable(BrokerError):
    """Octets are cut short, or of a type whose length is not known: from here on they say nothing."""


class FrameTooLong(BrokerError):
    """A frame has no end within what one may have."""


class Breach(BrokerError):
    """The other end does not keep to the rules; the text says how. Nothing that it says after that is worth reading."""
