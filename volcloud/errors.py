"""What can go wrong for a person, named after what that person does about it.

VolcloudError                exit status 1; ``next_step`` says what to do
├── CommandFailed            it was asked for and it was not done
│   ├── NoSuchVm             no VM has that name: look at the list
│   ├── NoSuchHost           no host has that name, or several have: look at the list
│   ├── NoSuchSite           no site has that name: look at the list, or add it
│   ├── NoSuchSource         no source has that name: look at the list
│   ├── NoSuchJob            no job has that name, or it names several: look at the list
│   ├── SubmissionRefused    the centre refused a job; ``reasons`` says why
│   ├── WaitTimeout          the jobs did not end in time; they go on
│   ├── CallFailed           a call in a guest has no result: its job failed, or what it gave does not travel
│   │   └── RemoteException  a call in a guest raised an exception of a class that is not known here
│   ├── PythonDiffers        the guest's Python is of another version: what one pickles the other does not read
│   └── ShellLeft            the person left a shell in a VM; what ran there was ended
├── Failure                  an error of any kind as a command tells it; its exit status is its own
│   └── Terminated           a signal told us to end
├── CannotTravel             a value of a call in a guest is of no kind that is read at home
├── RemoteTraceback          where in a guest an exception was raised: the cause of that exception
├── ClientNotOpen            the client is closed, or not open yet: connect
├── BadInput                 exit status 2: a file or an option is wrong, nothing was sent
└── Unreachable              exit status 3: no broker, no data directory, no answer
    └── CentreFailed         a process of ``volcloud up`` did not come up; its log's tail is in the message
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


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


class NoSuchHost(CommandFailed):
    """No host has that name or id, or several have where one is meant."""


class NoSuchSite(CommandFailed):
    """No site has that name."""


class NoSuchSource(CommandFailed):
    """No source has that name."""


class NoSuchJob(CommandFailed):
    """No job has that name, or several have where one is meant."""


class SubmissionRefused(CommandFailed):
    """The centre refused a job."""

    def __init__(self, job: str, reasons: list[str]) -> None:
        super().__init__(f"job {job} was refused: {'; '.join(reasons)}", "mend the description and submit it again")
        self.reasons = reasons


class WaitTimeout(CommandFailed):
    """The jobs did not end in time; they go on."""


class CallFailed(CommandFailed):
    """A call in a guest has no result: its job failed, or what it gave does not travel."""


class RemoteException(CallFailed):
    """A call in a guest raised an exception of a class that is not known here; it says which."""


class CannotTravel(VolcloudError):
    """A value that is of no kind that is read at home, or what came is none."""


class RemoteTraceback(VolcloudError):
    """Where in a guest an exception was raised: the cause of that exception."""

    def __str__(self) -> str:
        return f'\n"""\n{self.message}"""'


class PythonDiffers(CommandFailed):
    """The guest's Python is of another version than ours."""

    def __init__(self, version: Sequence[int]) -> None:
        theirs, ours = ".".join(map(str, version)), ".".join(map(str, sys.version_info[:3]))
        text = f"Python is {theirs} in the guest and {ours} here: what one has pickled the other may not read"
        super().__init__(text, f"use an image with Python {sys.version_info[0]}.{sys.version_info[1]}, or that here")
        self.version = tuple(version)


class ShellLeft(CommandFailed):
    """The person has left a shell, by ``~.``."""


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
