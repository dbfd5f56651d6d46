"""Hosts, their VMs, what these offer, and their free job slots."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

from adapters.ledger.tables.base import Number, index_where, metadata

hosts = Table(
    "hosts",
    metadata,
    Column("host", Text, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    Column("reported_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("beat_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("rest_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("strikes", Integer, nullable=False, server_default=text("0")),
    #: Its presence as it was told last, see ``absences``.
    Column("told", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("host", name="pk_hosts"),
)

#: What VMs offer, once each: ``key`` is the canonical JSON of the matched fields of ``schemas.jobs.Machine``.
offers = Table(
    "offers",
    metadata,
    Column("number", Number, nullable=False),
    Column("key", Text, nullable=False),
    #: Since when nothing has referred to it, by the lease clock; 0 = something may.
    Column("retired_ms", BigInteger, nullable=False, server_default=text("0")),
    #: The owner whose job, or the VM whose machine, was the first of it.
    Column("made_by", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("number", name="pk_offers"),
    Index("ix_offers_made_by", "made_by"),
    UniqueConstraint("key", name="uq_offers_key"),
    sqlite_autoincrement=True,
)

#: A VM as its host reports it (``host`` to ``paused_ms``, ``told_generation``) and as its guest agent shows itself;
#: ``strikes`` and ``rest_until_ms`` are what we think of it (see ``repute``); it is kept free for shape ``kept_for``.
vms = Table(
    "vms",
    metadata,
    Column("vm", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("hypervisor", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("status", LargeBinary, nullable=True),
    Column("paused_ms", BigInteger, nullable=False),
    Column("offer", BigInteger, nullable=True),
    Column("agent_seen_ms", BigInteger, nullable=False),
    Column("agent_since_ms", BigInteger, nullable=False),
    Column("hello_id", Text, nullable=False),
    #: What its host calls it; empty until the host has reported it.
    Column("name", Text, nullable=False, server_default=text("''")),
    Column("told_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("beat_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("rest_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("strikes", Integer, nullable=False, server_default=text("0")),
    Column("agent", Text, nullable=False, server_default=text("''")),
    Column("boot_id", Text, nullable=False, server_default=text("''")),
    Column("kept_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("kept_for", BigInteger, nullable=False, server_default=text("0")),
    #: As its host says; 0 = no host has spoken of it.
    Column("cpus", Integer, nullable=False, server_default=text("0")),
    #: Jobs that its guest has given back since it last finished one.
    Column("returns", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("vm", name="pk_vms"),
)

IS_THERE = vms.c.state != literal_column("'absent'")
#: Literals, since a partial index serves only a query in which the condition stands written out.
IS_SPEAKING = vms.c.agent == literal_column("'speaks'")
IS_RESTING = vms.c.rest_until_ms > literal_column("0")
IS_KEPT = vms.c.kept_for > literal_column("0")

IS_ABSENT = vms.c.state == literal_column("'absent'")

index_where("ix_vms_gone", IS_ABSENT, vms.c.host)
index_where("ix_vms_absent", IS_ABSENT, vms.c.beat_ms)
Index("ix_vms_offer", vms.c.offer)
index_where("ix_vms_host", IS_THERE, vms.c.host, vms.c.vm)
index_where("ix_vms_name", IS_THERE, vms.c.name, vms.c.vm)
index_where("ix_vms_speaking", IS_SPEAKING, vms.c.beat_ms)
index_where("ix_vms_kept", IS_KEPT, vms.c.kept_for)
index_where("ix_vms_resting", IS_RESTING, vms.c.rest_until_ms)

#: Free job slots, one row each. ``ahead``: jobs that would run before one given to it. ``state``: see ``readiness``.
requests = Table(
    "requests",
    metadata,
    Column("vm", Text, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("offer", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("repeated_ms", BigInteger, nullable=False),
    Column("ahead", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("vm", "slot", name="pk_requests"),
    sqlite_with_rowid=False,
)

IS_READY = requests.c.state == literal_column("'ready'")

_order = (requests.c.ahead, requests.c.asked_ms, requests.c.vm, requests.c.slot)
index_where("ix_requests_ready", IS_READY, requests.c.offer, *_order)
#: The whole order of service, for when many classes of slots could take a job.
index_where("ix_requests_order", IS_READY, *_order)
