"""Jobs on the wire, between guests and adapters: asking for work, assignments, beats, completions.

Every message about a running job carries its attempt; one of a superseded attempt changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.description import GRACE_S, Input, Output
from schemas.envelope import Command, Message, Reply
from schemas.ids import JobRef, Sha256

#: Outputs up to this size ride in the completion, bytes (all of one job's together).
MAX_INLINE_OUTPUT_BYTES = 64 * 1024
#: stdout and stderr are each kept up to this size, bytes.
MAX_STREAM_BYTES = 1 << 20

Slot = Annotated[int, Meta(ge=0, le=1023)]
Attempt = Annotated[int, Meta(ge=1)]
#: What a machine says of itself; every new one costs the ledger a row.
Word = Annotated[str, Meta(max_length=64)]
Phrase = Annotated[str, Meta(max_length=128)]
Features = Annotated[list[Word], Meta(max_length=64)]
#: An amount of something that a machine has, or that a job may have.
Amount = Annotated[int, Meta(ge=0, le=1 << 40)]
#: Slot numbers under which one job slot asks: its own, and one for each job that it takes ahead.
MOST_LANES = 64
#: Attempts that one guest may name: its slots, and what it has taken ahead and not been answered for.
MOST_HELD = 4096


class Phase(StrEnum):
    """Where an attempt is, as its guest sees it."""

    ASSIGNED = "assigned"
    STAGE_IN = "stage-in"
    RUNNING = "running"
    VALIDATING = "validating"
    STAGE_OUT = "stage-out"


class Outcome(StrEnum):
    """How an attempt ended, as its guest sees it."""

    DONE = "done"
    #: The payload's fault: counted against ``attempts``.
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Not the payload's fault: the agent or the VM went away under it.
    LOST = "lost"
    #: Never begun: it was taken ahead, and the job before it takes long. No failure and no loss.
    RETURNED = "returned"


class Machine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a guest offers to its jobs, all of them together; the ledger divides it among those that run at once.

    ``memory_mib`` and ``disk_mib`` are what the whole VM has for jobs, not what is free just now.
    """

    cpus: Amount
    memory_mib: Amount
    disk_mib: Amount
    platform: Word
    image: Phrase = ""
    features: Features = []
    #: Job slots that run at once. Slot numbers beyond are lanes: jobs taken ahead for slot ``number % slots``.
    slots: Annotated[int, Meta(ge=1, le=1024)] = 1
    #: Memory of a job that asks for none, as the VM's owner has set it; 0 = its slot's share.
    usual_memory_mib: Amount = 0
    #: The guest kernel's boot id: changes with every boot, differs from the host's in a real VM.
    boot_id: Word = ""
    agent_version: Word = ""
    python: Word = ""


class AttemptRef(Struct, frozen=True, kw_only=True):
    """One attempt of one job."""

    job: JobRef
    attempt: Attempt


#: A time that somebody has measured, seconds: neither endless nor no number, which no sum and no person could take.
Duration = Annotated[float, Meta(ge=0, le=1e9)]


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt has used so far."""

    cpu_seconds: Duration = 0.0
    wall_seconds: Duration = 0.0
    peak_rss_bytes: Annotated[int, Meta(ge=0, le=1 << 53)] = 0


#: Files of which one job's centre may be told while it runs, and what of each, and of all together, bytes.
MOST_TOLD, MOST_OF_TOLD_BYTES, MOST_OF_ALL_TOLD_BYTES = 64, 16 << 10, 256 << 10


#: The feature of a machine whose agent tells of files.
TELLS = "tells"


class ToldFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of a job that runs, as it is now."""

    name: Annotated[str, Meta(max_length=200)]
    size: Amount
    #: When it was written last, by the guest's clock: what tells it from one of the same name before.
    mtime_ns: Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
    #: What is in it; of a long one the end.
    content: Annotated[bytes, Meta(max_length=MOST_OF_TOLD_BYTES)] = b""


class ToldRef(Struct, frozen=True, kw_only=True):
    """A file of a job that runs, as it was told of."""

    job: JobRef
    attempt: Attempt
    name: Annotated[str, Meta(max_length=200)]
    mtime_ns: Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]


class HandedFile(Struct, frozen=True, kw_only=True):
    """A file that a job is handed while it runs: it stands in the job's directory from then on."""

    job: JobRef
    attempt: Attempt
    name: Annotated[str, Meta(max_length=200)]
    content: Annotated[bytes, Meta(max_length=MOST_OF_TOLD_BYTES)]


class OutputEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An output of an attempt: inline, or already in the store under the attempt's area."""

    name: str
    size: int
    sha256: Sha256
    content: bytes | None = None
    #: The stream was longer than this; only its head is kept.
    truncated: bool = False


class Holding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt that a guest holds, and where it is."""

    job: JobRef
    attempt: Attempt
    phase: Phase
    usage: Usage = Usage()
    #: What keeps it from going on, in words for a person; empty while all is well.
    trouble: str = ""
    #: Those of the files that its assignment ``tells`` of which are there.
    told: Annotated[list[ToldFile], Meta(max_length=MOST_TOLD)] = []
    #: Outputs that the centre wanted before the end, and that it has now.
    stored: Annotated[list[OutputEntry], Meta(max_length=MOST_TOLD)] = []
    #: Files that it was handed.
    handed: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=MOST_TOLD)] = []


class JobRequest(Message, frozen=True, kw_only=True, tag="job.request"):
    """ "Job slot ``slot`` of this VM is free." A newer one replaces an older one."""

    slot: Slot
    #: Further slots that are free, said in the same breath.
    more: Annotated[list[Slot], Meta(max_length=63)] = []
    #: Jobs that a job for ``slot`` would have to wait for; 0 = it begins at once. For each of ``more`` it is one more.
    ahead: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    machine: Machine
    #: What this guest holds; whatever else the ledger thinks it holds is lost.
    holding: Annotated[list[AttemptRef], Meta(max_length=MOST_HELD)] = []


class JobWithdraw(Message, frozen=True, kw_only=True, tag="job.withdraw"):
    """ "These job slots take nothing until they ask again." An assignment that has been sent stands."""

    slots: Annotated[list[Slot], Meta(min_length=1, max_length=64)]


class JobAssign(Command, frozen=True, kw_only=True, tag="job.assign"):
    """A job for a slot. All that the guest needs, and nothing of the submitter's credentials."""

    job: JobRef
    attempt: Attempt
    slot: Slot
    executable: str
    arguments: list[str] = []
    environment: dict[str, str] = {}
    inputs: list[Input] = []
    outputs: list[Output] = []
    validation: str = ""
    wall_time_s: float = 86400.0
    #: What this job may have of its VM, as the ledger has divided it; the guest keeps it to that. 0 = not said.
    cpus: Amount = 0
    memory_mib: Amount = 0
    disk_mib: Amount = 0
    #: Between SIGTERM and SIGKILL, seconds.
    grace_s: float = GRACE_S
    #: Files in the job's directory of which the beats tell while it runs: how far it is, and what it asks for.
    tells: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=MOST_TOLD)] = []


class JobStop(Command, frozen=True, kw_only=True, tag="job.stop"):
    """End an attempt: cancelled, or superseded. One that overtakes its assignment wins."""

    job: JobRef
    attempt: Attempt
    reason: str


class JobBeat(Message, frozen=True, kw_only=True, tag="job.beat"):
    """ "These attempts live": renews their leases. Answered by ``job.beat_answer``."""

    holding: Annotated[list[Holding], Meta(max_length=MOST_HELD)]
    #: Load of the guest, for people: 1-minute load average.
    load: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    #: Messages that the agent refused since it started, by reason.
    refused: dict[str, int] = {}


class LeaseMark(Message, frozen=True, kw_only=True, tag="lease.mark"):
    """An adapter's own mark among the beats: what was said before it has been read once it comes back."""


class JobBeatAnswer(Reply, frozen=True, kw_only=True, tag="job.beat_answer"):
    """The centre's time, and which attempts to stop."""

    server_time_ms: int
    stop: list[AttemptRef] = []
    #: Files that were told of and have had their effect: they go, unless they have changed since.
    removes: Annotated[list[ToldRef], Meta(max_length=MOST_TOLD)] = []
    #: Outputs that are wanted as they are now.
    wants: Annotated[list[ToldRef], Meta(max_length=MOST_TOLD)] = []
    #: Files that jobs are handed; one that is there already stays as it is.
    hands: Annotated[list[HandedFile], Meta(max_length=MOST_TOLD)] = []


class Steps(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long each step of an attempt took, seconds of the guest's monotonic clock."""

    wait_s: Duration = 0.0
    stage_in_s: Duration = 0.0
    run_s: Duration = 0.0
    validate_s: Duration = 0.0
    stage_out_s: Duration = 0.0


class JobCompletion(Message, frozen=True, kw_only=True, tag="job.completion"):
    """An attempt has ended. Sent until it is answered; the answer says that it counts, or why not."""

    job: JobRef
    attempt: Attempt
    outcome: Outcome
    #: The payload's; 128 + n for a death by signal n; -1 where it never ran.
    exit_status: int = -1
    #: Why it did not end well, in words for a person.
    cause: str = ""
    usage: Usage = Usage()
    steps: Steps = Steps()
    outputs: list[OutputEntry] = []
    boot_id: str = ""
    #: The freed slot asks for work in the same breath.
    request: JobRequest | None = None


class JobCompletionAnswer(Reply, frozen=True, kw_only=True, tag="job.completion_answer"):
    """The ledger has it. ``counted`` false: superseded or unknown, drop it."""

    job: JobRef
    attempt: Attempt
    counted: bool
    reason: str = ""


class AgentHello(Message, frozen=True, kw_only=True, tag="agent.hello"):
    """A guest agent is up: which boot it is, what it offers, what it still holds."""

    machine: Machine
    holding: Annotated[list[AttemptRef], Meta(max_length=MOST_HELD)] = []
