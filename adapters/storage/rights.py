"""Who may store which file, and how much of it: consoles inputs, VMs outputs of the attempts that they hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from adapters.errors import TooLarge
from adapters.storage.contract import Store, StoredFile
from schemas.files import FileOffer, InputFile, OutputFile
from schemas.ids import Kind, kind_of

#: Says how many bytes a VM may store of an attempt: None where it does not hold it.
MayStore = Callable[[str, OutputFile], Awaitable[int | None]]


class Rights:
    """See the module."""

    def __init__(self, store: Store, may_store: MayStore, most_input_bytes: int) -> None:
        self._store, self._may_store = store, may_store
        self._most_input_bytes = most_input_bytes
        #: Bytes of outputs on their way, by attempt.
        self._promised: Counter[tuple[str, int]] = Counter()

    async def permitted(self, sender: str, offer: FileOffer) -> StoredFile | None:
        """Give the file if the sender may store it."""
        if isinstance(offer.file, InputFile) and kind_of(sender) is Kind.CONSOLE and offer.file.sha256 == offer.sha256:
            return offer.file
        if isinstance(offer.file, OutputFile) and await self.may_still_store(sender, offer.file):
            return offer.file
        return None

    async def may_still_store(self, sender: str, file: StoredFile) -> bool:
        """Say whether what was permitted still is: an attempt may have ended while its output came."""
        return isinstance(file, InputFile) or await self._may_store(sender, file) is not None

    async def promise(self, sender: str, offer: FileOffer, file: StoredFile) -> AbstractContextManager[None]:
        """Count a file against what its attempt may store, until it is there or given up. Raises TooLarge before the
        first byte is taken."""
        if isinstance(file, InputFile):
            _refuse_over(self._most_input_bytes, offer.size, f"input {file.sha256}")
            return nullcontext()
        most = await self._may_store(sender, file) or 0
        others = await asyncio.to_thread(self._store.stored_bytes, file) + self._promised[file.job, file.attempt]
        name = f"output {file.name!r} of {file.job}"
        _refuse_over(most, others + offer.size, f"{name} and the others of its attempt" if others else name)
        return self._promised_while(file, offer.size)

    @contextmanager
    def _promised_while(self, file: OutputFile, size: int) -> Iterator[None]:
        key = (file.job, file.attempt)
        self._promised[key] += size
        try:
            yield
        finally:
            self._promised[key] -= size
            if not self._promised[key]:
                del self._promised[key]


def _refuse_over(most: int, size: int, what: str) -> None:
    if size > most:
        text = f"{what}: {size} bytes are over the limit of {most >> 20} MiB"
        raise TooLarge(f"{text}; a job asks for more by requirements.disk_mib")
