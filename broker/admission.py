"""What one process of the centre takes in from each stranger: a share of every queue that all of them may write.

Each message is judged as it comes, by the name that the broker vouches for, its bytes and how many it is, before
anything of it is decoded; what goes beyond its sender's share is dropped, counted and charged to it. So a flood of
well-formed messages is gone as fast as it can be received, and who goes on with it is cut off (``broker.offences``).
The shares stand in ``docs/explanation/trust.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from broker.dead_letters import DeadLetterPublisher
from broker.delivery import Gate
from broker.offences import STRANGERS
from broker.token_buckets import TokenBuckets
from schemas.ids import kind_of

MIB = 1 << 20


class Share(NamedTuple):
    """So many messages and bytes at once, and so many a second after that."""

    messages: int
    messages_per_s: float
    octets: int
    octets_per_s: float


#: What a stranger may send to each queue: several times what the busiest honest one of its kind sends.
SHARES: Mapping[str, Share] = {
    # A site has as many jobs as it likes; an array is one message.
    "vc.submissions": Share(50_000, 500.0, 512 * MIB, 8 * MIB),
    # A site hears by itself how its jobs end; it asks when it has missed that.
    "vc.asks": Share(200, 20.0, 4 * MIB, MIB // 4),
    # A part of a file each, of a quarter of a MiB.
    "vc.reads": Share(400, 200.0, 4 * MIB, MIB // 4),
    # A slot that is free asks once, and again as repair; the list of what its guest holds makes it long.
    "vc.requests": Share(2_000, 50.0, 64 * MIB, 4 * MIB),
    # One each 15 s, of up to 600 KB.
    "vc.beats": Share(200, 10.0, 16 * MIB, MIB),
    # Some hundred jobs a second, each with its small outputs.
    "vc.completions": Share(20_000, 1_000.0, 256 * MIB, 32 * MIB),
    # An opening for each larger file, said again every 4 s while it waits, and every 15 s while nobody answers.
    "vc.offers": Share(5_000, 50.0, 16 * MIB, MIB),
    # One each beat, and one for each change of a VM.
    "vc.inventory": Share(500, 10.0, 64 * MIB, 2 * MIB),
    # All VMs of a host may start at once.
    "vc.enrol": Share(1_000, 10.0, 16 * MIB, MIB),
    # An agent's word on what it has rejected.
    "vc.rejected": Share(500, 5.0, 4 * MIB, MIB // 16),
    # Grants: one for each quarter of a window of a file.
    "vc.control": Share(10_000, 2_000.0, 16 * MIB, 2 * MIB),
}

#: Queues of what honest ends say again until they are heard: after an outage all of it lies there. Beyond the share it
#: is dropped, and its bytes are charged, but it is no offence.
SAID_AGAIN = frozenset({"vc.offers"})


class _Queue:
    """The shares of one queue."""

    def __init__(self, share: Share) -> None:
        self._messages = TokenBuckets(share.messages, share.messages_per_s)
        self._octets = TokenBuckets(share.octets, share.octets_per_s)

    def has(self, sender: str, size_bytes: int, count: int, now_s: float) -> bool:
        """Take it from the sender's share; False where that holds less."""
        return self._messages.take(sender, now_s, count) and self._octets.take(sender, now_s, size_bytes)


class Admission:
    """The shares of all strangers in one process. Belongs to its loop."""

    def __init__(
        self,
        dead_letters: DeadLetterPublisher,
        note: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``dead_letters`` charges who goes beyond its share; ``note`` is called for each message that is dropped."""
        self._dead_letters, self._note, self._clock = dead_letters, note, clock

    def gate(self, queue: str) -> Gate:
        """Give what judges the messages of a queue: the centre's own and its consoles' all go on.

        Chunks of files have no share: what comes of them was granted, or is charged by who reads it. But of who is
        beyond all bounds nothing is read.
        """
        name = "vc.control" if queue.startswith("vc.control.") else queue
        shares = _Queue(SHARES[name]) if name in SHARES else None

        def judge(sender: str, size_bytes: int, count: int) -> bool:
            if sender and kind_of(sender) not in STRANGERS:
                return True
            is_within = shares is None or shares.has(sender, size_bytes, count, self._clock())
            if is_within and not self._dead_letters.is_beyond(sender):
                return True
            self._note()
            offences = int(name not in SAID_AGAIN)
            self._dead_letters.charge(sender, f"more than its share of {name}", size_bytes, offences=offences)
            return False

        return judge
