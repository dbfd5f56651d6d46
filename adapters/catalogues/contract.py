"""What a delivery asks of a grid's catalogue: the port of catalogues.

Every method blocks, may be called from any thread, several at once, and returns or raises within the catalogue's own
time limit for each few hundred files. CatalogueUnavailable: it is away or slow; the same is asked again later.
CatalogueRefused: it does not let us in, or the settings name what it has not; a person must look. Words hold the
catalogue's URL, and never a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from adapters.grid_stores.names import CopyName


class Replica(Struct, frozen=True, kw_only=True):
    """A file as it is in a grid's store, which has said size and checksum itself."""

    name: CopyName
    size: int
    #: Eight hexadecimal digits, small letters.
    adler32: str
    #: Its physical name.
    url: str
    #: What it is gathered under, with others; empty: nothing.
    collection: CopyName | None = None


class Catalogue(Protocol):
    """A catalogue of a grid, spoken to with its own credentials."""

    def register(self, copies: Sequence[Replica]) -> Mapping[str, str]:
        """Have the catalogue know these files; gives, by name, why one is not known, or not as it is.

        A file that is known with the same size and checksum is fine; with another one it is refused, with both, and the
        catalogue is left as it is. Idempotent, also after an error: some of them may be known by then.
        """

    def try_out(self) -> None:
        """Log in; raises where that does not work."""

    def close(self) -> None:
        """Drop connections. Idempotent."""
