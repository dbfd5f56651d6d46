"""Commands run inside a VM: start, streamed output under a window, signals, the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Command, Message, Reply
from schemas.ids import MessageId

#: Output bytes that may be on their way before the console has taken any.
FIRST_WINDOW_BYTES = 256 * 1024
#: Input bytes that may be on their way to a command, and bytes of one piece of it.
INPUT_WINDOW_BYTES, INPUT_PIECE_BYTES = 256 * 1024, 64 * 1024


#: As a shell has it, and as a process can end with it.
ExitStatus = Annotated[int, Meta(ge=0, le=255)]


class Stream(StrEnum):
    """Which of the two outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


#: A side of a terminal, in characters: what the kernel's size of a terminal holds.
Characters = Annotated[int, Meta(ge=1, le=65535)]


class Terminal(Struct, frozen=True, kw_only=True):
    """The terminal that a person has before him; the command gets one of that size."""

    rows: Characters = 24
    columns: Characters = 80
    #: What it understands, the guest's ``TERM``.
    kind: Annotated[str, Meta(max_length=100)] = "dumb"


class ExecCommand(Command, frozen=True, kw_only=True):
    """What to run in a VM, where, and as whom."""

    command: Annotated[list[str], Meta(min_length=1)]
    environment: dict[str, str] = {}
    #: Where it runs: an absolute path, or one below the VM's file area, which is meant where there is none. It exists.
    directory: str = ""
    #: A user of the guest, by name or number; the agent's own where there is none.
    user: str = ""
    timeout_s: Annotated[float, Meta(gt=0)] = 3600.0


class ExecRun(ExecCommand, frozen=True, kw_only=True, tag="exec.run"):
    """Run a command; its output comes as ``exec.output``, its end as ``reply.exec``."""

    #: Its standard input comes as ``exec.input``; there is none without.
    has_input: bool = False
    #: It runs on a terminal of its own, where there is one: all its output is standard output then.
    terminal: Terminal | None = None


class ExecDetach(ExecCommand, frozen=True, kw_only=True, tag="exec.detach"):
    """Run a command that goes on without its console; what it prints is kept in the VM. Its id is this message's."""


class ExecInput(Message, frozen=True, kw_only=True, tag="exec.input"):
    """Some standard input of a running command; ``number`` counts from 0, and nothing follows the last."""

    call: MessageId
    number: Annotated[int, Meta(ge=0)]
    data: bytes
    is_last: bool = False


class ExecInputWindow(Message, frozen=True, kw_only=True, tag="exec.input_window"):
    """The command has room: input up to ``limit_bytes`` in all may be sent. It reads none any more if it is closed."""

    call: MessageId
    limit_bytes: Annotated[int, Meta(ge=0)]
    is_closed: bool = False


class ExecResize(Message, frozen=True, kw_only=True, tag="exec.resize"):
    """The person's terminal has another size now."""

    call: MessageId
    rows: Characters
    columns: Characters


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


class ExecAttach(Command, frozen=True, kw_only=True, tag="exec.attach"):
    """Give all that a detached command of one's own has printed and goes on to print, then its end."""

    exec_id: MessageId


class ExecKill(Command, frozen=True, kw_only=True, tag="exec.kill"):
    """Send a signal to the process group of a command of one's own. SIGKILL ends all that it has started."""

    exec_id: MessageId
    signal: Annotated[int, Meta(ge=1, le=64)]


class ExecList(Message, frozen=True, kw_only=True, tag="exec.list"):
    """Ask a VM for the commands that run in it, and for those detached ones that have ended and are kept."""


class ExecState(StrEnum):
    """Where a command is."""

    RUNNING = "running"
    ENDED = "ended"
    #: Its agent ended before it, and it with its agent.
    INTERRUPTED = "interrupted"


class ExecRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command in a VM."""

    id: MessageId
    #: The principal that began it.
    principal: str
    #: By the guest's clock, ms since 1970.
    since_ms: int
    state: ExecState
    #: As ``reply.exec`` has it; None for one that has no end of its own.
    exit_status: ExitStatus | None = None
    is_detached: bool = True
    #: The beginning of it, where it is long.
    command: list[str]
    #: Output that is no longer kept, bytes.
    cut_bytes: int = 0


class ExecRows(Reply, frozen=True, kw_only=True, tag="reply.execs"):
    """The commands in a VM, oldest first."""

    commands: list[ExecRow]


class ExecEnded(Reply, frozen=True, kw_only=True, tag="reply.exec"):
    """The command ended. ``exit_status`` is the shell's: 128 + n for a death by signal n."""

    exit_status: ExitStatus
    output_messages: int = 0
    #: Of the command and what it waited for, in user and system mode together; the latter alone below.
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    system_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    wall_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    #: The most that one of its processes had in memory at once.
    peak_rss_bytes: Annotated[int, Meta(ge=0)] = 0
    timed_out: bool = False
    #: Output of a detached command that is no longer kept, bytes.
    cut_bytes: int = 0
