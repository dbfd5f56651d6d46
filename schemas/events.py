"""What happened to VMs and hosts: rows of the ledger, asked for by number, so that who comes back misses none."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Message, Reply
from schemas.ledger import HostRow, RegistryRow
from schemas.vms import MOST_OF_A_HOSTNAME, Amount, Name, Word

#: Events in one page: so many of the longest fit a message.
MAX_EVENTS = 200
#: Characters of a reason that are kept with an event.
MOST_OF_WHY = 300


class EventKind(StrEnum):
    """What an event is about; a reader knows that others may come."""

    MADE = "made"
    #: A VM is in another state, or has been booted anew.
    STATE = "state"
    SET_ASIDE = "set_aside"
    DELETED = "deleted"
    AGENT_READY = "agent_ready"
    #: Of a VM that runs: three beats have not come.
    AGENT_SILENT = "agent_silent"
    HOST_PRESENT = "host_present"
    #: Two beats have not come, and three.
    HOST_LATE = "host_late"
    HOST_LOST = "host_lost"
    HOST_BACK = "host_back"
    #: Its agent has said that it stops.
    HOST_BYE = "host_bye"
    #: A host, or a VM's guest, told of more than is kept of one.
    LEFT_OUT = "left_out"


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A thing that happened to a VM, or with ``vm`` empty to a host. Its number is higher than that of any before."""

    number: int = 0
    #: Time of the centre, ms since 1970.
    at_ms: int = 0
    event: Word
    host: str
    vm: str = ""
    name: Name = ""
    generation: Amount = 0
    #: The states before and after: a VM's, or a host's presence.
    was: Word = ""
    state: Word = ""
    #: Why, as its host says.
    why: str = ""
    #: The verb that brought it about, and who asked for it; empty with a verb: the host's agent by itself.
    verb: Word = ""
    by: Name = ""


class EventList(Message, frozen=True, kw_only=True, tag="event.list"):
    """Ask for events whose VM's name or id, or host, fits a shell pattern: a page of those after a number."""

    pattern: Annotated[str, Meta(max_length=MOST_OF_A_HOSTNAME)] = "*"
    #: ``next`` of the page before; 0 begins with the oldest.
    after: Amount = 0
    #: Only what happened at this time or later, ms since 1970.
    since_ms: Amount = 0
    #: So many of the newest, and not those after a number; 0: those after it.
    newest: Annotated[int, Meta(ge=0, le=MAX_EVENTS)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_EVENTS)] = MAX_EVENTS


class Events(Reply, frozen=True, kw_only=True, tag="reply.events"):
    """A page of events in their order. It may be short or empty: others follow while ``next`` is below ``last``."""

    events: list[Event]
    #: Up to here was looked: the next question asks after it.
    next: int = 0
    #: The number of the newest event.
    last: int = 0
    #: Of those up to this number not all are kept; who asked after a lower one may have missed some.
    removed: int = 0
    #: Whose numbers these are: another ledger has others.
    ledger: str = ""


class VmShow(Message, frozen=True, kw_only=True, tag="vm.show"):
    """Ask for all that the centre knows of one VM, by its id."""

    vm: Name


class VmDetails(Reply, frozen=True, kw_only=True, tag="reply.vm"):
    """All that the centre knows of one VM; ``host`` is None until its host was heard of."""

    vm: RegistryRow
    host: HostRow | None = None
    #: The last of them.
    events: list[Event] = []


class HostShow(Message, frozen=True, kw_only=True, tag="host.show"):
    """Ask for all that the centre knows of one host, by its id."""

    host: Name


class HostDetails(Reply, frozen=True, kw_only=True, tag="reply.host"):
    """All that the centre knows of one host, and its first VMs by name; ``host.vms`` says how many it has."""

    host: HostRow
    vms: list[RegistryRow] = []
    #: The last of them.
    events: list[Event] = []
