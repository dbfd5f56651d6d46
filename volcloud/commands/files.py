"""``volcloud vm push`` and ``vm pull``: files and trees to and from virtual machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import click
import msgspec

from schemas.plain_text import plain
from volcloud.bars import file_bar, transfer_bars, tree_bar
from volcloud.client.trees import MovedTree, TreeProgress
from volcloud.errors import Failure
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.telling import INTERRUPTED, note

#: Things that were left out, named one by one; the others are counted.
_MOST_NAMED = 20


class MovedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``push`` says of a file to programs."""

    path: str
    is_tree: bool = False
    entries: int = 1
    size: int
    sha256: str


@click.command("push")
@click.argument("name", metavar="VM")
@click.argument("local", type=click.Path())
@click.argument("path", default="")
@data_option
@json_option
@pass_invocation
def push(invocation: Invocation, name: str, local: str, path: str) -> None:
    """Send LOCAL, a file or a directory, into a VM, to PATH below its agent's file area (by default its own name).

    A PATH that is a directory there receives it under its own name, as with cp -r. Of a LOCAL with a slash at its end
    what is in it goes to PATH itself, as with rsync. A directory goes with all below it, as one transfer: modes and
    times, symbolic links as links, and holes as holes; setuid bits are dropped, and what is there besides stays. Files
    that are there with the same bytes are not sent, so the same command goes on where it was interrupted.

    \b
    Example:
      volcloud vm push atlas-1 card.dat inputs/card.dat
      volcloud vm push atlas-1 calibration inputs
    """
    label = Path(local).name or local
    if Path(local).is_dir():
        kept = _Kept(f"what came to {name} is kept there for an hour")
        with kept, invocation.client() as client, transfer_bars() as bars:
            moved = client.trees.push(local, name, path, progress=kept.along(tree_bar(bars, plain(label))))
        _tell_tree(invocation, moved, f"{moved.path} in {name}")
        return
    with invocation.client() as client, transfer_bars() as bars:
        sha256 = client.files.push(local, name, path or label, progress=file_bar(bars, label))
    if invocation.is_json:
        moved_file = MovedFile(path=path or label, size=Path(local).stat().st_size, sha256=sha256)
        invocation.show(moved_file, str)
    invocation.say(f"{local} is {path or label} in {name} (SHA-256 {sha256[:12]}…)")


@click.command("pull")
@click.argument("name", metavar="VM")
@click.argument("path")
@click.argument("local", type=click.Path(), required=False)
@data_option
@json_option
@pass_invocation
def pull(invocation: Invocation, name: str, path: str, local: str | None) -> None:
    """Take PATH, a file or a directory, out of a VM's file area, to LOCAL (by default its name, here).

    A LOCAL that is a directory receives it under its own name, as with cp -r; of a directory PATH with a slash at its
    end, what is in it goes to LOCAL itself. A directory comes as ``vm push`` sends one.

    \b
    Example:
      volcloud vm pull atlas-1 outputs/events.root
      volcloud vm pull atlas-1 outputs results
    """
    label = plain(path.rstrip("/").rpartition("/")[2] or path)
    kept = _Kept("what came is kept beside its place, hidden")
    with kept, invocation.client() as client, transfer_bars() as bars:
        moved = client.trees.pull(name, path, local, progress=kept.along(tree_bar(bars, label)))
    if moved.is_tree:
        _tell_tree(invocation, moved, moved.path)
    elif invocation.is_json:
        invocation.show(MovedFile(path=moved.path, size=moved.size, sha256=moved.sha256), str)
    else:
        invocation.say(f"{plain(moved.path)}: {moved.size} bytes")


class _Kept:
    """Lets Ctrl-C end the transfer of a tree, and says what stays of it and how to go on."""

    def __init__(self, what_stays: str) -> None:
        self._what_stays, self._last = what_stays, TreeProgress()

    def along(self, move: Callable[[TreeProgress], None]) -> Callable[[TreeProgress], None]:
        """Give a callback that moves the bar, and is remembered."""

        def follow(done: TreeProgress) -> None:
            self._last = done
            move(done)

        return follow

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) and self._last.all_entries:
            done = f"{self._last.entries} of {self._last.all_entries} entries, {self._last.bytes} bytes"
            text = f"interrupted after {done}; {self._what_stays}"
            raise Failure(INTERRUPTED, text, "the same command goes on where this one got to") from error


def _tell_tree(invocation: Invocation, moved: MovedTree, where: str) -> None:
    if invocation.is_json:
        invocation.show(moved, str)
        return
    for left_out in moved.skipped[:_MOST_NAMED]:
        note(f"{left_out}; left out")
    if moved.left_out > _MOST_NAMED:
        note(f"{moved.left_out - _MOST_NAMED} more were left out")
    entries = "1 entry" if moved.entries == 1 else f"{moved.entries} entries"
    invocation.say(f"{plain(where)}: {entries}, {moved.size} bytes in files, {moved.sent} bytes sent")
