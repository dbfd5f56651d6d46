"""Submissions, their jobs, and the attempts of these."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
    text,
)

from adapters.ledger.tables.base import Number, index_where, metadata

#: What jobs ask for, once each: ``key`` is the canonical JSON of ``schemas.description.Requirements``.
shapes = Table(
    "shapes",
    metadata,
    Column("number", Number, nullable=False),
    Column("key", Text, nullable=False),
    #: Since when nothing has referred to it, by the lease clock; 0 = something may.
    Column("retired_ms", BigInteger, nullable=False, server_default=text("0")),
    #: The owner whose job, or the VM whose machine, was the first of it.
    Column("made_by", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("number", name="pk_shapes"),
    Index("ix_shapes_made_by", "made_by"),
    UniqueConstraint("key", name="uq_shapes_key"),
    sqlite_autoincrement=True,
)

#: What was submitted and accepted; a refused submission leaves no row, so it may come again mended.
submissions = Table(
    "submissions",
    metadata,
    Column("number", Number, nullable=False),
    Column("owner", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("description", LargeBinary, nullable=False),
    Column("count", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("shape", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("submitted_ms", BigInteger, nullable=False),
    #: How many of its jobs have rows: those of a large array are made in portions.
    Column("made", Integer, nullable=False, server_default=text("0")),
    #: Where it came from: ``site``, ``console``, or the name of an edge that brought it.
    Column("source", Text, nullable=False, server_default=text("''")),
    #: What that edge needs to answer for its jobs; nobody else reads it.
    Column("source_data", LargeBinary, nullable=True),
    PrimaryKeyConstraint("number", name="pk_submissions"),
    UniqueConstraint("id", "owner", name="uq_submissions_id_owner"),
    Index("ix_submissions_owner", "owner", "number"),
    Index("ix_submissions_shape", "shape"),
    sqlite_autoincrement=True,
)

IS_UNMADE = submissions.c.made < submissions.c.count
#: Of a release that knew no portions: it made all of its jobs with the submission. Ours says at least one.
IS_MADE_AT_ONCE = submissions.c.made == literal_column("0")
index_where("ix_submissions_unmade", IS_UNMADE, submissions.c.number)

jobs = Table(
    "jobs",
    metadata,
    Column("number", Number, nullable=False),
    Column("submission", BigInteger, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("ref", Text, nullable=False),
    Column("shape", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("lost_on", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("submitted_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    #: The submission's.
    Column("owner", Text, nullable=False, server_default=text("''")),
    #: It waits for this time before it is tried again; 0 = it may go at once.
    Column("not_before_ms", BigInteger, nullable=False, server_default=text("0")),
    #: Until then it is for other VMs than the one on which it went wrong.
    Column("avoid_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("avoid_vm", Text, nullable=False, server_default=text("''")),
    #: By the lease clock: when it was submitted or released, and once it is done, cancelled or held, since when it is.
    Column("since_ms", BigInteger, nullable=False, server_default=text("0")),
    #: How often its guests have given it back unbegun, since a person last released it.
    Column("returns", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("number", name="pk_jobs"),
    ForeignKeyConstraint(["submission"], ["submissions.number"], name="fk_jobs_submission"),
    UniqueConstraint("ref", name="uq_jobs_ref"),
    UniqueConstraint("submission", "idx", name="uq_jobs_submission_idx"),
    # Pages of a list are read by these, whatever the list is of.
    Index("ix_jobs_of_submission", "submission", "state", "number"),
    Index("ix_jobs_of_owner", "owner", "state", "number"),
    sqlite_autoincrement=True,
)

IS_SUBMITTED = jobs.c.state == literal_column("'submitted'")
IS_WAITING = and_(IS_SUBMITTED, jobs.c.not_before_ms == literal_column("0"))
IS_DELAYED = and_(IS_SUBMITTED, jobs.c.not_before_ms > literal_column("0"))

index_where("ix_jobs_waiting", IS_WAITING, jobs.c.owner, jobs.c.shape, jobs.c.rank, jobs.c.number)
HAS_ENDED = jobs.c.ended_ms > literal_column("0")

IS_HELD = jobs.c.state == literal_column("'held'")

index_where("ix_jobs_ended", HAS_ENDED, jobs.c.since_ms, jobs.c.number)
index_where("ix_jobs_held", IS_HELD, jobs.c.since_ms, jobs.c.number)
index_where("ix_jobs_order", IS_WAITING, jobs.c.owner, jobs.c.rank, jobs.c.number)
index_where("ix_jobs_delayed", IS_DELAYED, jobs.c.not_before_ms)

#: Jobs by state: of each submission, and of each owner in the rows of submission 0. See ``adapters.ledger.tallies``.
tallies = Table(
    "tallies",
    metadata,
    Column("submission", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("shard", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("submission", "owner", "state", "shard", name="pk_tallies"),
    sqlite_with_rowid=False,
)

#: Of which shapes each owner has submitted jobs, those that are over too; a row stays as long as its shape does.
kinds = Table(
    "kinds",
    metadata,
    Column("owner", Text, nullable=False),
    Column("shape", BigInteger, nullable=False),
    PrimaryKeyConstraint("owner", "shape", name="pk_kinds"),
    ForeignKeyConstraint(["shape"], ["shapes.number"], name="fk_kinds_shape_shapes", ondelete="CASCADE"),
    Index("ix_kinds_shape", "shape", "owner"),
    sqlite_with_rowid=False,
)

#: What is known of an owner beside its jobs. An owner without a row has every default.
owners = Table(
    "owners",
    metadata,
    Column("owner", Text, nullable=False),
    #: Its part of the machines' time beside others', and how many of its jobs may wait; NULL = as the settings say.
    Column("share", Integer, nullable=False, server_default=text("1")),
    Column("most_waiting", BigInteger, nullable=True),
    #: What it has used lately, cpu-ms, and what it occupies, thousandths of a cpu; see ``fair_share``.
    Column("used", BigInteger, nullable=False, server_default=text("0")),
    Column("occupied", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("owner", name="pk_owners"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("vm", Text, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("hypervisor", Text, nullable=False),
    Column("hypervisor_pid", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("assigned_by", Text, nullable=False),
    Column("state", Text, nullable=False),
    #: The guest's message that first showed that it has the assignment; empty = it may still be under way.
    Column("seen_id", Text, nullable=False),
    #: The completion that counted; empty = none yet.
    Column("completion_id", Text, nullable=False),
    Column("assigned_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("lease_expires_ms", BigInteger, nullable=False),
    Column("exit_status", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("noticed_by", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("work", LargeBinary, nullable=True),
    #: What it was given of its VM. ``place``: the slot that runs it, of which its own slot number may be a lane;
    #: ``large`` 1: more than the equal share.
    Column("cpus", BigInteger, nullable=False, server_default=text("0")),
    Column("memory_mib", BigInteger, nullable=False, server_default=text("0")),
    Column("disk_mib", BigInteger, nullable=False, server_default=text("0")),
    Column("place", Integer, nullable=False, server_default=text("0")),
    Column("large", Integer, nullable=False, server_default=text("0")),
    #: What its VM had given back when it was given this.
    Column("returns", Integer, nullable=False, server_default=text("0")),
    #: Its term, see ``terms``.
    Column("may_take_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("over_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("stretched_ms", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("job", "attempt", name="pk_attempts"),
    ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_attempts_job"),
    sqlite_with_rowid=False,
)

IS_OPEN = attempts.c.ended_ms == literal_column("0")

IS_OPEN_AND_LARGE = and_(IS_OPEN, attempts.c.large == literal_column("1"))
index_where("ix_attempts_large", IS_OPEN_AND_LARGE, attempts.c.vm)
index_where("ix_attempts_open", IS_OPEN, attempts.c.vm)

#: What befell a job beside the plain course, which its own row and its attempts' tell.
events = Table(
    "events",
    metadata,
    Column("number", Number, nullable=False),
    Column("job", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("noticed_by", Text, nullable=False),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("number", name="pk_events"),
    ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_events_job"),
    Index("ix_events_job", "job"),
    sqlite_autoincrement=True,
)

#: Names of submissions whose jobs were deleted, and the highest attempt of these: a new job of the name begins after.
#: ``deleted_ms`` is the lease clock's.
deleted = Table(
    "deleted",
    metadata,
    Column("owner", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("deleted_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("owner", "id", name="pk_deleted"),
    Index("ix_deleted_ms", "deleted_ms"),
    sqlite_with_rowid=False,
)
