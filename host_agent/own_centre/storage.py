"""Inputs and outputs of one guest's job, over its local road: files of the host's that the job names, and files that it
names as outputs, and no others.

What the guest says is a stranger's word: it chooses neither where anything lands nor how much of it there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery
from broker.errors import PartialTaken, TransferFailed
from broker.inbound import Refusal, take_in
from broker.road import Road
from broker.token_buckets import TokenBuckets
from broker.transfer import Transfers, into_file
from broker.transfer.scheduler import TransferLimits
from broker.transfer.transfer_queue import TransferQueue
from host_agent.own_centre.guest_job import GuestJob
from schemas.codec import clip
from schemas.description import STREAMS
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, FileWait, InputFile, OutputFile
from schemas.jobs import OutputEntry

log = logging.getLogger(__name__)

#: What a file takes of a disk at least, bytes.
_LEAST_BYTES = 4096
#: Transfers that a guest may open: so many at once, and a second.
OPENINGS, OPENINGS_PER_S = 200, 20.0
#: Transfers of one guest: at work, and, those that wait included, known.
LIMITS = TransferLimits(at_work=4, at_work_of_one=4, at_work_of_kin=4, known=32, known_of_one=32, known_of_kin=32)


class GuestFiles:
    """What of files a guest's job has to do with."""

    def __init__(
        self,
        job: GuestJob,
        inputs: Mapping[str, Path],
        outputs: Path,
        most_bytes: int,
        has_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """``inputs`` by their SHA-256; outputs come to the directory ``outputs``, of no more than ``most_bytes``, until
        the job ``has_ended``."""
        self._job, self._inputs, self._outputs, self._most_bytes = job, inputs, outputs, most_bytes
        self._names = frozenset(output.name for output in job.outputs) | STREAMS
        self._has_ended = has_ended
        #: Bytes of what is coming, by the file that it becomes.
        self._coming: dict[Path, int] = {}

    def input(self, sha256: str) -> Path | None:
        """Give a file that the job is given; None for any other."""
        return self._inputs.get(sha256)

    @contextlib.contextmanager
    def landing(self, offer: FileOffer) -> Iterator[Path]:
        """Say where what is offered comes to, and keep room for it meanwhile. Raises TransferFailed where nobody wants
        it, it is too large, or others are coming."""
        file = offer.file
        is_ours = isinstance(file, OutputFile) and file.job == self._job.ref and file.name in self._names
        if not is_ours or self._has_ended() or not isinstance(file, OutputFile):
            raise TransferFailed(ErrorCode.FORBIDDEN, f"{clip(str(file), 200)}: is no output of the job of this guest")
        target = self.place(file.name, offer.sha256)
        left = self._most_bytes - self._taken(but=file.name)
        if offer.size > left:
            text = f"{file.name}: {offer.size} bytes; the outputs of this job may have {max(left, 0)} more"
            raise TransferFailed(ErrorCode.TOO_LARGE, text)
        if offer.size > left - sum(size for path, size in self._coming.items() if path != target):
            raise TransferFailed(ErrorCode.NO_ROOM, f"{file.name}: others are coming, and there may be no room beside")
        self._coming[target] = offer.size
        try:
            yield target
            self._remove_others(file.name, target)
        finally:
            self._coming.pop(target, None)

    def place(self, name: str, sha256: str) -> Path:
        """Name the file in which an output is once it has come whole, with that digest."""
        return self._outputs / f"{_stem(name)}.{sha256[:24]}"

    def is_here(self, entry: OutputEntry) -> bool:
        """Whether an output that a guest has told of is here: in its word, or as a file that came."""
        if entry.name not in self._names:
            return False
        if entry.content is not None:
            return hashlib.sha256(entry.content).hexdigest() == entry.sha256 and len(entry.content) == entry.size
        return self.place(entry.name, entry.sha256).is_file()

    def _taken(self, but: str) -> int:
        """Add up what outputs take that have come, but for one of that name: the next one takes its place."""
        if not self._outputs.is_dir():
            return 0
        sizes = [path.lstat().st_size for path in self._outputs.iterdir() if _is_whole(path, but)]
        return sum(max(size, _LEAST_BYTES) for size in sizes)

    def _remove_others(self, name: str, target: Path) -> None:
        """An output has come: what came before under its name is nobody's any more."""
        for path in self._outputs.glob(f"{_stem(name)}.*"):
            if path.name.partition(".")[2][:24] != target.name.partition(".")[2]:
                path.unlink(missing_ok=True)


def _stem(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def _is_whole(path: Path, but: str) -> bool:
    return path.name.count(".") == 1 and not path.name.startswith(f"{_stem(but)}.")


class OwnStorage:
    """The transfers of one road. ``close`` when it is left."""

    def __init__(self, vm: str, road: Road, files: GuestFiles) -> None:
        self._vm, self._road, self._files = vm, road, files
        self._transfers = Transfers(road)
        self._queue = TransferQueue(self._transfers, LIMITS)
        self._openings = TokenBuckets(OPENINGS, OPENINGS_PER_S)
        self._closing = OwnedTasks("transfers of a link before")

    async def close(self) -> None:
        """End what is going on; the guest begins it anew on the next road, and what has come stays."""
        await self._queue.close()
        await self._closing.finish()

    def begin_anew(self) -> None:
        """The guest's agent is another one, or has begun anew: what was under way with the one before is over."""
        before, self._queue = self._queue, TransferQueue(self._transfers, LIMITS)
        self._closing.spawn(before.close(), name="close")

    def on_delivery(self, delivery: Delivery) -> None:
        """Take what a guest says of files."""
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self._road.offend(letter.reason)
            return
        message = letter.message
        if isinstance(message, FileOffer | FileGet) and not self._transfers.is_open(message.id):
            if not self._openings.take("", time.monotonic()):
                self._road.offend("more transfers than are answered")
                return
            self._queue.open(letter.sender, message, lambda: self._serve(letter.sender, message))
        elif not self._transfers.on_message(letter.sender, message):
            self._road.offend("messages of no transfer")

    async def _serve(self, sender: str, message: FileOffer | FileGet) -> None:
        try:
            if isinstance(message, FileOffer):
                with self._files.landing(message) as target:
                    land = into_file(target, target.with_name(f"{target.name}.part"))
                    await self._transfers.receive_file(message, land, sender, message.reply)
            else:
                await self._give(sender, message)
        except PartialTaken:
            self._transfers.tell(sender, message.reply, FileWait(transfer=message.id))
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
