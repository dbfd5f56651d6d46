"""Credentials on the wire: a host asks for its VM, the VM trades a one-time login for its own, consoles mint sites."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.envelope import Message, Reply
from schemas.ids import Principal, SiteName

#: A VM for which nobody vouches for so long loses its login and its queues, days in which its host could have spoken.
SILENT_DAYS = 45
#: A principal's name as somebody else writes it: what is none is refused with words, so it is capped here only.
Named = Annotated[str, Meta(max_length=80)]


class EnrolGrant(Message, frozen=True, kw_only=True, tag="enrol.grant"):
    """A host asks for a one-time login for a VM of its own at that ``generation``."""

    vm: Named


class EnrolGranted(Reply, frozen=True, kw_only=True, tag="reply.enrol_granted"):
    """The one-time login of a VM's generation; it can ask for that VM's credential and nothing else."""

    vm: str
    user: str
    password: str


class EnrolTrade(Message, frozen=True, kw_only=True, tag="enrol.trade"):
    """The holder of a one-time login asks for the VM's credential; the answer comes by direct reply-to."""


class Credential(Reply, frozen=True, kw_only=True, tag="reply.credential"):
    """A broker user and its password."""

    user: str
    password: str


class EnrolConfirm(Message, frozen=True, kw_only=True, tag="enrol.confirm"):
    """A VM has connected with its own credential: the one-time login may go."""


class EnrolRevoke(Message, frozen=True, kw_only=True, tag="enrol.revoke"):
    """A host has deleted a VM of its own: delete that principal and its queues. Answered by done."""

    vm: Named


class EnrolVouch(Message, frozen=True, kw_only=True, tag="enrol.vouch"):
    """A host says which VMs it has: all of them, when its link is new and from time to time. One that it leaves out for
    long loses its login and its queues."""

    vms: Annotated[list[Named], Meta(max_length=1000)]
    #: VMs that it has and does not know: nobody vouches for them, and they are not forgotten either.
    aside: Annotated[list[Named], Meta(max_length=1000)] = []


class KeysMint(Message, frozen=True, kw_only=True, tag="keys.mint"):
    """A console asks for a site's principal; answered by its credential, the same one each time."""

    site: SiteName


class KeysList(Message, frozen=True, kw_only=True, tag="keys.list"):
    """A console asks which sites have a login."""


class KeysListed(Reply, frozen=True, kw_only=True, tag="reply.keys"):
    """The principals of sites, by name."""

    sites: list[str]


class KeysDelete(Message, frozen=True, kw_only=True, tag="keys.delete"):
    """A console asks that a site's, a host's or a VM's principal be deleted with its queues. Answered by done."""

    principal: Named


class PrincipalCut(Message, frozen=True, kw_only=True, tag="principal.cut"):
    """An adapter tells of a principal that is beyond every bound: it is kept off the broker for a while."""

    principal: Principal
    reason: str
