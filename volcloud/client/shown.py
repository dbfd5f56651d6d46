"""What the client gives, as it shows itself in a notebook and at a prompt: a table or a few lines, not a dump.

A shown value is the struct of the wire with another face: the same fields, equal to it, the same when encoded. Its
words may be hostile: each is made plain, and escaped in HTML.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, TypeVar, cast, overload

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from schemas.enrol import Credential
from schemas.events import Event, Events, HostDetails, VmDetails
from schemas.execs import ExecEnded, ExecRow
from schemas.grids import SourceRow
from schemas.ledger import HostRow, JobRecord, JobRow, Jobs, JobsChanged, JobVerdict, RegistryRow
from schemas.owners import OwnerRow
from schemas.plain_text import plain, plain_all
from schemas.vms import VmSnapshot, VmStatus
from volcloud.rendering.events import event_line, render_events
from volcloud.rendering.execs import render_execs
from volcloud.rendering.hosts import render_hosts
from volcloud.rendering.html import html
from volcloud.rendering.jobs import render_job_rows, render_jobs, render_record, render_why, told_counts
from volcloud.rendering.records import render_host_record, render_vm_record
from volcloud.rendering.sites import render_owners
from volcloud.rendering.sources import render_sources
from volcloud.rendering.vms import render_snapshots, render_vm, render_vms
from volcloud.why import Explanation

#: Rows that a table shows of itself, in HTML and at a prompt.
MOST_ROWS, MOST_WORDS = 200, 5

T = TypeVar("T")


class Shown:
    """The face of a struct: a short ``repr``, and HTML."""

    __slots__ = ()

    def _summary(self) -> str:
        """Say in a few words what it is."""
        raise NotImplementedError

    def _rendered(self) -> RenderableType:
        """Render it whole; its words are plain already."""
        return Text(self._summary())

    def __repr__(self) -> str:
        return f"<{plain(self._summary())}>"

    def _repr_html_(self) -> str:
        return html(plain_all(self)._rendered())

    def __eq__(self, other: object) -> bool:
        """Equal to the struct that it shows, and to another face of the same."""
        if not isinstance(self, msgspec.Struct) or not isinstance(other, msgspec.Struct):
            return NotImplemented
        if not isinstance(self, type(other)) and not isinstance(other, type(self)):
            return NotImplemented
        return msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    __hash__ = None  # type: ignore[assignment]


class ShownVm(Shown, RegistryRow, frozen=True, kw_only=True):
    """A VM of the registry."""

    def _summary(self) -> str:
        return f"VM {self.status.name} {self.status.state} on {self.host}"

    def _rendered(self) -> RenderableType:
        return render_vms([self])


class ShownVmStatus(Shown, VmStatus, frozen=True, kw_only=True):
    """A VM as its host has told of it."""

    def _summary(self) -> str:
        return f"VM {self.name} {self.state}"

    def _rendered(self) -> RenderableType:
        return render_vm(self)


class ShownSnapshot(Shown, VmSnapshot, frozen=True, kw_only=True):
    """A snapshot of a VM."""

    def _summary(self) -> str:
        return f"snapshot {self.name} of a VM that was {self.state}"

    def _rendered(self) -> RenderableType:
        return render_snapshots([self])


class ShownHost(Shown, HostRow, frozen=True, kw_only=True):
    """A host."""

    def _summary(self) -> str:
        return f"host {self.host} {self.presence}, {self.vms} VMs"

    def _rendered(self) -> RenderableType:
        return render_hosts([self])


class ShownOwner(Shown, OwnerRow, frozen=True, kw_only=True):
    """A site, or a person, that has jobs."""

    def _summary(self) -> str:
        return f"owner {self.owner}, share {self.share}, {sum(self.jobs.values())} jobs"

    def _rendered(self) -> RenderableType:
        return render_owners([self])


class ShownSource(Shown, SourceRow, frozen=True, kw_only=True):
    """A grid from which jobs are fetched."""

    def _summary(self) -> str:
        return f"source {self.source} {self.kind}: {self.trouble or 'no trouble'}"

    def _rendered(self) -> RenderableType:
        return render_sources([self])


class ShownHostDetails(Shown, HostDetails, frozen=True, kw_only=True, tag="reply.host"):
    """All that is known of a host."""

    def _summary(self) -> str:
        return f"host {self.host.host} {self.host.presence}, {self.host.vms} VMs"

    def _rendered(self) -> RenderableType:
        return render_host_record(self)


class ShownVmDetails(Shown, VmDetails, frozen=True, kw_only=True, tag="reply.vm"):
    """All that is known of a VM."""

    def _summary(self) -> str:
        return f"VM {self.vm.status.name} {self.vm.status.state} on {self.vm.host}"

    def _rendered(self) -> RenderableType:
        return render_vm_record(self)


class ShownEvent(Shown, Event, frozen=True, kw_only=True):
    """A thing that happened to a VM or a host."""

    def _summary(self) -> str:
        return f"event {event_line(self)}"

    def _rendered(self) -> RenderableType:
        return render_events([self])


class ShownEvents(Shown, Events, frozen=True, kw_only=True, tag="reply.events"):
    """A page of events."""

    def _summary(self) -> str:
        return f"{len(self.events)} events, up to {self.next} of {self.last}"

    def _rendered(self) -> RenderableType:
        return render_events(self.events)


class ShownJobRow(Shown, JobRow, frozen=True, kw_only=True):
    """A job in a listing."""

    def _summary(self) -> str:
        return f"job {self.job} {self.state}"

    def _rendered(self) -> RenderableType:
        return render_job_rows([self])


class ShownJob(Shown, JobRecord, frozen=True, kw_only=True, tag="reply.job"):
    """All that is known of a job."""

    def _summary(self) -> str:
        return f"job {self.job.job} {self.job.state}, {len(self.attempts)} attempts"

    def _rendered(self) -> RenderableType:
        return render_record(self)


class ShownExplanation(Shown, Explanation, frozen=True, kw_only=True):
    """Why a job is where it is."""

    def _summary(self) -> str:
        return f"job {self.job} is {self.state}: {self.cause}"

    def _rendered(self) -> RenderableType:
        return render_why(self)


class ShownVerdict(Shown, JobVerdict, frozen=True, kw_only=True, tag="job.verdict"):
    """What became of a submission."""

    def _summary(self) -> str:
        return f"job {self.job} accepted: {self.count} jobs"


class ShownChange(Shown, JobsChanged, frozen=True, kw_only=True, tag="reply.jobs_changed"):
    """What an order did to jobs."""

    def _summary(self) -> str:
        return f"{self.changed} jobs changed, {self.pending} pending"


class ShownEnd(Shown, ExecEnded, frozen=True, kw_only=True, tag=str(ExecEnded.__struct_config__.tag)):
    """How a command ended."""

    def _summary(self) -> str:
        return f"command ended with exit status {self.exit_status}"


class ShownExec(Shown, ExecRow, frozen=True, kw_only=True):
    """A command in a VM."""

    def _summary(self) -> str:
        return f"command {self.id} {self.state}: {shlex.join(self.command)}"

    def _rendered(self) -> RenderableType:
        return render_execs([self])


class ShownLogin(Shown, Credential, frozen=True, kw_only=True, tag="reply.credential"):
    """A login; its password is not shown."""

    def _summary(self) -> str:
        return f"login {self.user}"


class JobPage(Shown, Jobs, frozen=True, kw_only=True, tag="reply.jobs"):
    """A page of jobs, newest first: a sequence of its rows, with ``counts`` by state of all that were asked for."""

    @classmethod
    def of(cls, page: Jobs) -> JobPage:
        """Give the page of an answer."""
        return cls(**_fields(page) | {"jobs": Table(map(shown, page.jobs))})

    def __iter__(self) -> Iterator[JobRow]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> JobRow:
        return self.jobs[index]

    def _summary(self) -> str:
        return f"{len(self.jobs)} of {sum(self.counts.values())} jobs: {told_counts(self.counts)}"

    def _rendered(self) -> RenderableType:
        return render_jobs(self)


class Table(list[T]):
    """Rows of a listing: a list that shows itself as a table, and so do its slices."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> T: ...

    @overload
    def __getitem__(self, index: slice, /) -> Table[T]: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> T | Table[T]:
        return Table(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        more = [f"… {len(self) - MOST_WORDS} more"] if len(self) > MOST_WORDS else []
        return f"[{', '.join([*map(repr, self[:MOST_WORDS]), *more])}]"

    def _repr_html_(self) -> str:
        rows = plain_all(list(self[:MOST_ROWS]))
        below = [f"… and {len(self) - MOST_ROWS} more"] if len(self) > MOST_ROWS else []
        return html(Group(_tabled(rows), *below))


#: The face of each struct that the client gives.
FACES: dict[type, type] = {
    RegistryRow: ShownVm,
    VmStatus: ShownVmStatus,
    VmSnapshot: ShownSnapshot,
    HostRow: ShownHost,
    OwnerRow: ShownOwner,
    SourceRow: ShownSource,
    HostDetails: ShownHostDetails,
    VmDetails: ShownVmDetails,
    Event: ShownEvent,
    Events: ShownEvents,
    JobRow: ShownJobRow,
    JobRecord: ShownJob,
    Explanation: ShownExplanation,
    JobVerdict: ShownVerdict,
    JobsChanged: ShownChange,
    ExecEnded: ShownEnd,
    ExecRow: ShownExec,
    Credential: ShownLogin,
}


def shown(value: T) -> T:
    """Give a value that shows itself, and so does what it holds, if there is a face for it; else the value."""
    face = FACES.get(type(value))
    if face is None:
        return value
    return cast(T, face(**{name: shown(one) for name, one in _fields(value).items()}))


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _tabled(rows: Sequence[Any]) -> RenderableType:
    match rows:
        case [RegistryRow(), *_]:
            return render_vms(rows)
        case [VmSnapshot(), *_]:
            return render_snapshots(rows)
        case [HostRow(), *_]:
            return render_hosts(rows)
        case [OwnerRow(), *_]:
            return render_owners(rows)
        case [SourceRow(), *_]:
            return render_sources(rows)
        case [JobRow(), *_]:
            return render_job_rows(rows)
        case [ExecRow(), *_]:
            return render_execs(rows)
    return Text("none")
