"""Files of grids on their way in, on the disk that the ledger and the broker live on: none touches its reserve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adapters.errors import NoStagingRoom
from broker import reserve

#: How much is taken for granted between two looks at the disk, bytes.
STEP_BYTES = 8 << 20


class Inflow:
    """A new file that is being written, see ``flowing_in``."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file, self._what, self._granted = file, what, 0

    def demand(self, size: int) -> None:
        """Have room for so many bytes more, all at once or, where it is not known, for some. Raises NoStagingRoom."""
        with self._ours():
            reserve.demand(self._file.fileno(), max(size, STEP_BYTES))
        self._granted = STEP_BYTES

    def write(self, block: bytes) -> None:
        """Write what has come. Raises NoStagingRoom."""
        self._granted -= len(block)
        if self._granted < 0:
            self.demand(STEP_BYTES)
        with self._ours():
            self._file.write(block)

    def sync(self) -> None:
        """Have on the disk what was written. Raises NoStagingRoom."""
        with self._ours():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Whatever this disk does is our trouble, and neither the job's nor its grid's."""
        try:
            yield
        except OSError as error:
            raise NoStagingRoom(f"{self._what}: no room for it here: {error.strerror or error}") from error


@contextmanager
def flowing_in(target: Path, what: str, size: int = 0) -> Iterator[Inflow]:
    """Open a new file for what comes, of which ``size`` is expected; ``what`` says in errors what it is.

    Post-condition: it is there, whole and durable but for its name. Raises NoStagingRoom before the reserve is touched,
    and as a full disk does; there may be a part of the file then. Somebody else's trouble passes through.
    """
    with target.open("xb") as file:
        flow = Inflow(file, what)
        flow.demand(size)
        yield flow
        flow.sync()
