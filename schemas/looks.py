"""Looking into a VM from outside, on the wire: what it uses of its host, its screen, what it prints.

Questions change nothing, so no journal keeps them: who hears no answer asks again.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Message, Reply
from schemas.ids import MessageId, Sha256
from schemas.vms import Amount, Name, Reason, VmState, Word

#: A picture of a screen that is longer is not sent, bytes; it comes in parts of so many.
MOST_OF_A_SCREEN, SCREEN_PART_BYTES = 8 * 1024 * 1024, 256 * 1024
#: What one answer tells of what a guest has printed: lines, bytes, and pieces, between which something is left out.
MOST_LOG_LINES, MOST_OF_A_LOG, MOST_LOG_PIECES = 100_000, 256 * 1024, 8


class VmCounters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a VM uses of its host and has used since its process began; None: its hypervisor cannot tell."""

    #: Names the process that has counted: two answers of one life may be subtracted. Empty: the VM does not run.
    life: Word = ""
    #: For how long it has counted, seconds; since when by the host's clock, ms since 1970.
    for_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    since_ms: Amount = 0
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    resident_bytes: Amount | None = None
    #: What its own disk takes of the host's.
    disk_bytes: Amount | None = None
    block_read_bytes: Amount | None = None
    block_write_bytes: Amount | None = None
    block_read_requests: Amount | None = None
    block_write_requests: Amount | None = None
    #: What the guest has received and sent.
    net_rx_bytes: Amount | None = None
    net_tx_bytes: Amount | None = None
    net_rx_packets: Amount | None = None
    net_tx_packets: Amount | None = None
    #: What the guest has left of its memory by its balloon.
    balloon_bytes: Amount | None = None


class VmQuestion(Message, frozen=True, kw_only=True):
    """A question about one VM; the VM does not notice."""

    vm: Name


class VmStats(VmQuestion, frozen=True, kw_only=True, tag="vm.stats"):
    """Ask what a VM uses of its host."""


class VmStatsReply(Reply, frozen=True, kw_only=True, tag="reply.vm_stats"):
    """What a VM uses of its host now."""

    vm: Name
    state: VmState
    counters: VmCounters
    #: Why some of it is not told.
    reason: Reason = ""


class VmScreenshot(VmQuestion, frozen=True, kw_only=True, tag="vm.screenshot"):
    """Ask for a picture of a VM's screen: parts of it, then how many there were."""


class ScreenPart(Message, frozen=True, kw_only=True, tag="screen.part"):
    """A part of a picture, in order."""

    call: MessageId
    number: Amount
    data: Annotated[bytes, Meta(max_length=SCREEN_PART_BYTES)]


class ScreenReply(Reply, frozen=True, kw_only=True, tag="reply.screen"):
    """All parts of a picture, which is a PNG, have been sent."""

    parts: Amount
    size: Annotated[int, Meta(ge=0, le=MOST_OF_A_SCREEN)]
    sha256: Sha256


class VmLog(VmQuestion, frozen=True, kw_only=True, tag="vm.log"):
    """Ask for what a guest has printed on its serial console: the last lines, or what follows a place in a boot."""

    #: The boot that ``at`` is in; empty: the last ``lines`` of the newest.
    boot: Word = ""
    #: How many bytes the guest had printed in that boot.
    at: Amount = 0
    lines: Annotated[int, Meta(ge=0, le=MOST_LOG_LINES)] = 0


class LogPiece(Struct, frozen=True, kw_only=True):
    """What was printed, from a place on."""

    at: Amount
    data: Annotated[bytes, Meta(max_length=MOST_OF_A_LOG)]


class VmLogReply(Reply, frozen=True, kw_only=True, tag="reply.vm_log"):
    """Some of what a guest has printed. Where a piece begins behind the end of the one before, what is between is
    lost, or was not asked for."""

    #: Empty: it has printed nothing that is kept.
    boot: Word = ""
    pieces: Annotated[list[LogPiece], Meta(max_length=MOST_LOG_PIECES)] = []
    #: Where to go on asking in this boot.
    next_at: Amount = 0
    #: There is more of this boot already.
    more: bool = False
    #: The boot that came after; empty: this is the newest.
    newer: Word = ""
