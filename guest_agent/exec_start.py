"""A console's command as it was ordered, started: its user, its directory, its environment, its streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from guest_agent.confine import below
from guest_agent.errors import CannotRun
from guest_agent.exec_input import END_OF_TERMINAL, InputPipe
from guest_agent.exec_user import ExecUser, find_user
from guest_agent.minded import MindedCommand, Streams
from guest_agent.minders import Minders
from guest_agent.payload import Payload, PayloadEnd
from guest_agent.pipes import Pipes, Sink
from guest_agent.pseudo_terminal import PseudoTerminal
from schemas.execs import ExecCommand, ExecEnded, ExecRun, Terminal


class StartedCommand:
    """A command at work: its payload, its input and terminal where it has any."""

    def __init__(
        self,
        leader: MindedCommand,
        payload: Payload,
        stdin: InputPipe | None = None,
        terminal: PseudoTerminal | None = None,
    ) -> None:
        self._leader = leader
        self.payload, self.stdin, self.terminal = payload, stdin, terminal

    def close(self) -> None:
        """Let go of all that it has; what runs still is killed. Idempotent."""
        self._leader.close()
        if self.stdin is not None:
            self.stdin.close()
        if self.terminal is not None:
            self.terminal.close()


async def start(
    minders: Minders,
    order: ExecCommand,
    area: Path,
    stdout: Sink,
    stderr: Sink,
    on_input: Callable[[], None] = lambda: None,
) -> StartedCommand:
    """Start a command as ordered; ``on_input``: see ``InputPipe``. Raises CannotRun, BadPath, and nothing runs then."""
    user = find_user(order.user)
    terminal = order.terminal if isinstance(order, ExecRun) else None
    environment = _environment(order, user, terminal)
    _check(order.environment, (*order.command, *environment.values(), order.directory))
    leader = MindedCommand(minders, order.command, _directory(order, area, user), user if order.user else None)
    if terminal is not None:
        return await _start_on_terminal(leader, environment, terminal, user, stdout, stderr, on_input)
    has_input = isinstance(order, ExecRun) and order.has_input
    return await _start_on_pipes(leader, environment, stdout, stderr, on_input if has_input else None)


async def _start_on_pipes(
    leader: MindedCommand,
    environment: dict[str, str],
    stdout: Sink,
    stderr: Sink,
    on_input: Callable[[], None] | None,
) -> StartedCommand:
    pipes = Pipes()
    stdin, write = (os.open(os.devnull, os.O_RDONLY), -1) if on_input is None else os.pipe()
    try:
        await leader.start(environment, Streams(stdin=stdin, stdout=pipes.out_write, stderr=pipes.err_write))
    except BaseException:
        leader.close()
        pipes.drop()
        if write >= 0:
            os.close(write)
        raise
    finally:
        os.close(stdin)
        pipes.hand_over()
    fed = None if on_input is None else InputPipe(write, on_input)
    return StartedCommand(leader, Payload(leader, pipes, stdout, stderr), fed)


async def _start_on_terminal(
    leader: MindedCommand,
    environment: dict[str, str],
    size: Terminal,
    user: ExecUser,
    stdout: Sink,
    stderr: Sink,
    on_input: Callable[[], None],
) -> StartedCommand:
    terminal = PseudoTerminal(size.rows, size.columns, user.uid)
    side = terminal.slave
    try:
        streams = Streams(stdin=side, stdout=side, stderr=side, terminal=terminal.path)
        await leader.start(environment, streams)
    except BaseException:
        leader.close()
        terminal.drop()
        raise
    finally:
        terminal.hand_over()
    fed = InputPipe(os.dup(terminal.master), on_input, at_end=END_OF_TERMINAL)
    return StartedCommand(leader, Payload(leader, terminal, stdout, stderr), fed, terminal)


def _check(names: Iterable[str], words: Iterable[str]) -> None:
    """Refuse what no program can be started with. Raises CannotRun."""
    for name in names:
        if not name or "=" in name or "\0" in name:
            allowed = "a variable's name must not be empty, nor hold '=' or a NUL character"
            raise CannotRun(f"environment = {name[:100]!r}: {allowed}", hint="give it another")
    for word in words:
        if "\0" in word:
            text = f"command, environment or directory = {word[:100]!r}: must not hold a NUL character"
            raise CannotRun(text, hint="leave it out")


def _environment(order: ExecCommand, user: ExecUser, terminal: Terminal | None) -> dict[str, str]:
    """The agent's own, what a login sets for a user who was named or at a terminal, and what was ordered."""
    if order.user:
        login = user.environment
    else:
        login = {name: value for name, value in user.environment.items() if terminal and name not in os.environ}
    shown = {"TERM": terminal.kind} if terminal else {}
    return {**os.environ, **login, **shown, **order.environment}


def _directory(order: ExecCommand, area: Path, user: ExecUser) -> Path:
    """Where it runs: as ordered; else a named user's home, as a login does, or the file area."""
    if order.directory:
        directory = Path(order.directory)
        return directory if directory.is_absolute() else below(area, order.directory)
    if not order.user:
        return area
    return user.home if user.home.is_dir() else Path("/")


def ended_of(call: str, ended: PayloadEnd, *, output_messages: int = 0, cut_bytes: int = 0) -> ExecEnded:
    """Tell how a command ended."""
    return ExecEnded(
        call=call,
        exit_status=ended.exit_status,
        output_messages=output_messages,
        cpu_seconds=ended.figures.cpu_seconds,
        system_seconds=ended.figures.system_seconds,
        wall_seconds=ended.wall_seconds,
        peak_rss_bytes=ended.figures.peak_bytes,
        timed_out=ended.timed_out,
        cut_bytes=cut_bytes,
    )
