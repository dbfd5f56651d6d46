"""What a delivery asks of a grid's store: the port of grid stores.

Every method blocks, may be called from any thread, several at once, and returns or raises within the store's own time
limit; a put's grows with the file. GridStoreUnavailable: the store is away or slow; the same is asked again later.
GridStoreFull, which is one of these: it has no room. GridStoreRefused: it is read-only, or has no mind to serve us; a
person must look. Words hold the store's URL. What was given up for being slow may still happen: every method can be
repeated, and a put that comes late puts what was meant.

Names are ``adapters.grid_stores.names``'s; any other is refused. One suite of tests runs over all grid stores.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from adapters.grid_stores.names import CopyName


class StoredCopy(NamedTuple):
    """A file as the store says that it has it."""

    size: int
    #: Eight hexadecimal digits, small letters.
    adler32: str


class GridStore(Protocol):
    """A place of a grid where files are kept, written to with its own credentials."""

    def put(self, local: Path, name: CopyName) -> None:
        """Have a local file in the store under a name, which shows it whole or not at all.

        It is written under a hidden name beside it and renamed. A file that is there with the same size and checksum
        is left as it is, at the cost of asking for them; one that is another is replaced. A connection that is cut is
        made anew, and goes on or starts again as the store allows; nothing under the name has changed when that does
        not help. Whether the bytes that arrived are those that were sent, ``stat`` tells. Idempotent.

        Raises OSError where the local file cannot be read.
        """

    def stat(self, name: CopyName) -> StoredCopy:
        """Ask the store how large a file is and what its checksum is: of what it has, not of what it was sent.

        Raises NotInGridStore.
        """

    def url(self, name: CopyName) -> str:
        """Say where others have the file: its physical name for a catalogue. Asks nobody."""

    def remove(self, name: CopyName) -> None:
        """Remove a file. Nothing there is no error. Idempotent."""

    def try_out(self) -> None:
        """Write a small file and remove it again; raises where none can be written."""

    def close(self) -> None:
        """Drop what is held open. Idempotent."""
