"""``volcloud vm shell``: a person's terminal in a virtual machine."""

from __future__ import annotations

import os

import click

from schemas.execs import ExecRun, Stream, Terminal
from volcloud.client.shell_session import Keys
from volcloud.commands.execs import WE_FAILED, WORDS, environment_of, place_options, words_of
from volcloud.errors import BadInput, Left, Terminated
from volcloud.invocation import Invocation, data_option, pass_invocation
from volcloud.raw_terminal import raw, size_of
from volcloud.telling import failing_with, note

#: How long a shell may stay open, seconds: a month.
SHELL_S = 30 * 86400.0
#: Starts the user's own shell as a login does.
LOGIN_SHELL = ("sh", "-c", 'exec "${SHELL:-/bin/sh}" -l')


@click.command("shell", context_settings=WORDS)
@place_options
@data_option
@click.argument("name", metavar="VM")
@click.argument("command", nargs=-1)
@pass_invocation
def shell(
    invocation: Invocation, name: str, command: tuple[str, ...], env: tuple[str, ...], user: str, cwd: str
) -> None:
    """Open a shell in a VM, or run COMMAND there, on a terminal of the size of yours.

    Every key goes to the VM, Ctrl-C too. At the beginning of a line `~.` leaves and ends what runs there, `~~` is a
    tilde. The exit status is the shell's, 125 when we failed or were left. All that it has started in the VM ends with
    it, and so it does when your terminal goes away.

    \b
    Example:
      volcloud vm shell atlas-1
      volcloud vm shell atlas-1 top
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise BadInput(
            "standard input or output is no terminal: `vm shell` is for a person at one",
            f"`volcloud vm run {name} -- COMMAND` takes pipes and files",
        )
    rows, columns = size_of(0)
    order = ExecRun(
        command=words_of(command) or [*LOGIN_SHELL],
        environment=environment_of(env),
        directory=cwd,
        user=user,
        timeout_s=SHELL_S,
        has_input=True,
        terminal=Terminal(rows=rows, columns=columns, kind=os.environ.get("TERM", "dumb")[:100]),
    )
    with failing_with(WE_FAILED), invocation.client() as client:
        session = client.execs.session(name, order, _write, Keys(0, _say))
        try:
            with raw(0, lambda: session.resize(*size_of(0))):
                status = session.wait().exit_status
        except Left as left:
            note(left.message)
            status = WE_FAILED
        except Terminated as end:
            note(end.message)
            status = end.exit_status
    raise click.exceptions.Exit(status)


def _write(stream: Stream, data: bytes) -> None:
    """Show what the VM says as it is: it has the terminal, as with any remote shell."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


def _say(text: str) -> None:
    """Show a line of our own on a terminal that is the VM's."""
    os.write(2, f"\r\n[{text}]\r\n".encode())
