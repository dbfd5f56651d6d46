"""``volcloud dead …``: messages that were given up, with their reasons."""

from __future__ import annotations

import click
import msgspec
from rich.console import Group, RenderableType

from broker.node import read_node_address
from volcloud.centre.layout import Layout
from volcloud.dead_letters import DeadLetter, DeadLetters
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.words import lines, table


@click.group("dead")
def dead() -> None:
    """Look at the dead letters: what could not be read or taken, by whom, and why."""


@dead.command("list")
@data_option
@json_option
@pass_invocation
def list_letters(invocation: Invocation) -> None:
    """List the dead letters, oldest first.

    \b
    Example:
      volcloud dead list
    """
    letters = _letters(invocation).list()
    invocation.show(letters, _render_list)


@dead.command("show")
@click.argument("letter")
@data_option
@json_option
@pass_invocation
def show(invocation: Invocation, letter: str) -> None:
    """Show one dead letter: its reason, its sender, where it was going, its bytes.

    \b
    Example:
      volcloud dead show 3fa9
    """
    found = _letters(invocation).show(letter)
    invocation.show(found, _render)


@dead.command("replay")
@click.argument("letter")
@data_option
@json_option
@pass_invocation
def replay(invocation: Invocation, letter: str) -> None:
    """Send a dead letter again to where it was going, as from its sender; mend what refused it first.

    \b
    Example:
      volcloud dead replay 3fa9
    """
    sent = _letters(invocation).replay(letter)
    invocation.show(sent, lambda one: f"{one.id} sent again to {one.key}")


@dead.command("drop")
@click.argument("letter")
@data_option
@json_option
@pass_invocation
def drop(invocation: Invocation, letter: str) -> None:
    """Throw a dead letter away.

    \b
    Example:
      volcloud dead drop 3fa9
    """
    gone = _letters(invocation).drop(letter)
    invocation.show(gone, lambda one: f"{one.id} dropped")


def _letters(invocation: Invocation) -> DeadLetters:
    return DeadLetters(read_node_address(Layout(invocation.directory).node).administration)


def _render_list(letters: list[DeadLetter]) -> RenderableType:
    shown = table("LETTER", "REASON", "SENDER", "KEY", "QUEUE", "BYTES")
    for one in letters:
        shown.add_row(one.id, one.reason, one.sender, one.key, one.queue, str(one.size))
    return shown if letters else "no dead letters"


def _render(one: DeadLetter) -> RenderableType:
    fields = msgspec.structs.asdict(one)
    body = fields.pop("body")
    return Group(lines((name, str(value)) for name, value in fields.items()), "", _dump(body[:512]))


def _dump(body: bytes) -> str:
    """Render bytes as hexadecimal beside their ASCII."""
    rows = [body[start : start + 16] for start in range(0, len(body), 16)]
    return "\n".join(f"{row.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}" for row in rows)
