"""Commands run inside a VM: start, streamed output under a window, signals, the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from schemas.envelope import Command, Message, Reply
from schemas.ids import MessageId

#: Output bytes that may be on their way before the console has taken any.
FIRST_WINDOW_BYTES = 256 * 1024


class Stream(StrEnum):
    """Which of the two outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class ExecRun(Command, frozen=True, kw_only=True, tag="exec.run"):
    """Run a command; its output comes as ``exec.output``, its end as ``reply.exec``."""

    command: Annotated[list[str], Meta(min_length=1)]
    environment: dict[str, str] = {}
    directory: str = ""
    timeout_s: Annotated[float, Meta(gt=0)] = 3600.0


class ExecOutput(Message, frozen=True, kw_only=True, tag="exec.output"):
    """Some output of a running command; ``number`` counts from 0 over both streams, so that order is kept."""

    call: MessageId
    number: int
    stream: Stream
    data: bytes


class ExecWindow(Message, frozen=True, kw_only=True, tag="exec.window"):
    """The console has room: output up to ``limit_bytes`` in all may be sent."""

    call: MessageId
    limit_bytes: int


class ExecSignal(Message, frozen=True, kw_only=True, tag="exec.signal"):
    """Send a signal to the command's process group."""

    call: MessageId
    signal: Annotated[int, Meta(ge=1, le=64)]


class ExecEnded(Reply, frozen=True, kw_only=True, tag="reply.exec"):
    """The command ended. ``exit_status`` is the shell's: 128 + n for a death by signal n."""

    exit_status: int
    output_messages: int = 0
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    wall_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    timed_out: bool = False
