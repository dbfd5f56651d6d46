"""What can go wrong for a person, named after what that person does about it.

VolcloudError                exit status 1; ``next_step`` says what to do
├── CommandFailed            it was asked for and it was not done
│   ├── NoSuchVm             no VM has that name: look at the list
│   ├── NoSuchJob            no job has that name, or it names several: look at the list
│   ├── SubmissionRefused    the centre refused a job; ``reasons`` says why
│   ├── WaitTimeout          the jobs did not end in time; they go on
│   └── Left                 the person has left a command's terminal; it was ended
├── Failure                  an error of any kind as a command tells it; its exit status is its own
│   └── Terminated           we were told to end, by a signal
├── ClientNotOpen            the client is closed, or not open yet: connect
├── BadInput                 exit status 2: a file or an option is wrong, nothing was sent
└── Unreachable              exit status 3: no broker, no data directory, no answer
    └── CentreFailed         a process of ``volcloud up`` did not come up; its log's tail is in the message
"""

from __future__ import annotations

import signal


class VolcloudError(Exception):
    """Base of every error of the command and the client."""

    exit_status = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class CommandFailed(VolcloudError):
    """It was asked for and it was not done."""


class NoSuchVm(CommandFailed):
    """No VM has that name, or several have where one is meant."""


class NoSuchJob(CommandFailed):
    """No job has that name, or several have where one is meant."""


class SubmissionRefused(CommandFailed):
    """The centre refused a job."""

    def __init__(self, job: str, reasons: list[str]) -> None:
        super().__init__(f"job {job} was refused: {'; '.join(reasons)}", "mend the description and submit it again")
        self.reasons = reasons


class WaitTimeout(CommandFailed):
    """The jobs did not end in time; they go on."""


class Left(CommandFailed):
    """The person has left, by ``~.``."""


class Failure(VolcloudError):
    """An error of any kind as a command tells it; its exit status is its own."""

    def __init__(self, exit_status: int, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.exit_status = exit_status


class Terminated(Failure):
    """We were told to end, by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number, f"ended by {signal.Signals(number).name}")


class ClientNotOpen(VolcloudError):
    """The client is closed, or not open yet."""

    def __init__(
        self, message: str = "the client is closed", next_step: str = "connect a new one: `Client.connect()`"
    ) -> None:
        super().__init__(message, next_step)


class BadInput(VolcloudError):
    """A file or an option is wrong; nothing was sent."""

    exit_status = 2


class Unreachable(VolcloudError):
    """There is no broker, no data directory, or no answer."""

    exit_status = 3


class CentreFailed(Unreachable):
    """A process of the centre did not come up."""
