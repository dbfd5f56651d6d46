"""Inputs and outputs of one guest's job, over its local road: files of the host's that the job names, and files that it
names as outputs, and no others.

What the guest says is a stranger's word: it chooses neither where anything lands nor how much of it there is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from broker.delivery import Delivery
from broker.errors import TransferFailed
from broker.inbound import Refusal, take_in
from broker.road import Road
from broker.transfer import Transfers, into_file
from broker.transfer.scheduler import TransferLimits
from broker.transfer.transfer_queue import TransferQueue
from host_agent.own_centre.guest_job import GuestJob
from schemas.codec import clip
from schemas.description import STREAMS, is_pattern
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, InputFile, OutputFile
from schemas.jobs import OutputEntry

log = logging.getLogger(__name__)

#: Transfers of one guest: at work, and, those that wait included, known.
LIMITS = TransferLimits(at_work=4, at_work_of_one=4, at_work_of_kin=4, known=32, known_of_one=32, known_of_kin=32)


class GuestFiles:
    """What of files a guest's job has to do with."""

    def __init__(self, job: GuestJob, inputs: Mapping[str, Path], outputs: Path, most_bytes: int) -> None:
        """``inputs`` by their SHA-256; outputs come to the directory ``outputs``, of no more than ``most_bytes``."""
        self._job, self._inputs, self._outputs, self._most_bytes = job, inputs, outputs, most_bytes
        self._names = frozenset(output.name for output in job.outputs) | STREAMS

    def input(self, sha256: str) -> Path | None:
        """Give a file that the job is given; None for any other."""
        return self._inputs.get(sha256)

    def landing(self, offer: FileOffer) -> Path:
        """Say where what is offered comes to. Raises TransferFailed where nobody wants it, or it is too large."""
        file = offer.file
        if not isinstance(file, OutputFile) or file.job != self._job.ref or file.name not in self._names:
            raise TransferFailed(ErrorCode.FORBIDDEN, f"{clip(str(file), 200)}: is no output of the job of this guest")
        left = self._most_bytes - self._taken()
        if offer.size > left:
            text = f"{file.name}: {offer.size} bytes; the outputs of this job may have {max(left, 0)} more"
            raise TransferFailed(ErrorCode.TOO_LARGE, text)
        return self.place(file.name, offer.sha256)

    def place(self, name: str, sha256: str) -> Path:
        """Name the file in which an output is once it has come whole, with that digest."""
        return self._outputs / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.{sha256[:24]}"

    def is_here(self, entry: OutputEntry) -> bool:
        """Whether an output that a guest has told of is here: in its word, or as a file that came."""
        if entry.name not in self._names:
            return False
        if entry.content is not None:
            return hashlib.sha256(entry.content).hexdigest() == entry.sha256 and len(entry.content) == entry.size
        return self.place(entry.name, entry.sha256).is_file()

    def _taken(self) -> int:
        if not self._outputs.is_dir():
            return 0
        return sum(path.lstat().st_size for path in self._outputs.iterdir())


def refuse_patterns(job: GuestJob) -> None:
    """Outputs of a host's own jobs are named one by one. Raises ValueError."""
    if patterns := [output.name for output in job.outputs if is_pattern(output.name)]:
        raise ValueError(f"outputs that are patterns: {', '.join(patterns)}")


class OwnStorage:
    """The transfers of one road. ``close`` when it is left."""

    def __init__(self, vm: str, road: Road, files: GuestFiles) -> None:
        self._vm, self._road, self._files = vm, road, files
        self._transfers = Transfers(road)
        self._queue = TransferQueue(self._transfers, LIMITS)

    async def close(self) -> None:
        """End what is going on; the guest begins it anew on the next road, and what has come stays."""
        await self._queue.close()

    def on_delivery(self, delivery: Delivery) -> None:
        """Take what a guest says of files."""
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self._road.offend(letter.reason)
            return
        message = letter.message
        if isinstance(message, FileOffer | FileGet) and not self._transfers.is_open(message.id):
            self._queue.open(letter.sender, message, lambda: self._serve(letter.sender, message))
        elif not self._transfers.on_message(letter.sender, message):
            self._road.offend("messages of no transfer")

    async def _serve(self, sender: str, message: FileOffer | FileGet) -> None:
        try:
            if isinstance(message, FileOffer):
                target = self._files.landing(message)
                land = into_file(target, target.with_suffix(".part"))
                await self._transfers.receive_file(message, land, sender, message.reply)
            else:
                await self._give(sender, message)
        except TransferFailed as failure:
            log.info("transfer with the guest failed: %s", failure)
            self._refuse(sender, message, failure.code, str(failure))
        except OSError as error:
            log.warning("a file of the guest's job: %s", error)
            self._refuse(sender, message, ErrorCode.STORE, error.strerror or "the host's disk fails")

    def _refuse(self, sender: str, message: FileOffer | FileGet, code: ErrorCode, text: str) -> None:
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=clip(text)))

    async def _give(self, sender: str, get: FileGet) -> None:
        path = self._files.input(get.file.sha256) if isinstance(get.file, InputFile) else None
        if path is None or not isinstance(get.file, InputFile):
            raise TransferFailed(ErrorCode.NOT_FOUND, "is no input of the job of this guest")
        size = (await asyncio.to_thread(path.stat)).st_size
        offer = FileOffer(id=get.id, file=get.file, size=size, sha256=get.file.sha256)
        await self._transfers.send_file(path, offer, sender, get.reply)
