"""Jobs name their owner, lists have indexes, VMs have names, and jobs are tallied by state."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_WAITING = sa.text("state = 'submitted'")
_READY = sa.text("state = 'ready'")
_THERE = sa.text("state != 'absent'")


def upgrade() -> None:
    """Add the columns, fill them, and make the indexes that pages are read by."""
    op.add_column("jobs", sa.Column("owner", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.execute("UPDATE jobs SET owner = (SELECT s.owner FROM submissions s WHERE s.number = jobs.submission)")
    op.drop_index("ix_jobs_held", table_name="jobs")
    op.create_index("ix_jobs_of_submission", "jobs", ["submission", "state", "number"])
    op.create_index("ix_jobs_of_owner", "jobs", ["owner", "state", "number"])
    op.create_index("ix_jobs_order", "jobs", ["rank", "number"], sqlite_where=_WAITING, postgresql_where=_WAITING)
    op.create_index(
        "ix_requests_order",
        "requests",
        ["ahead", "asked_ms", "vm", "slot"],
        sqlite_where=_READY,
        postgresql_where=_READY,
    )
    op.create_index("ix_submissions_owner", "submissions", ["owner", "number"])
    op.add_column("vms", sa.Column("name", sa.Text(), nullable=False, server_default=sa.text("''")))
    _name_vms()
    op.drop_index("ix_vms_host", table_name="vms")
    op.create_index("ix_vms_host", "vms", ["host", "vm"], sqlite_where=_THERE, postgresql_where=_THERE)
    op.create_index("ix_vms_name", "vms", ["name", "vm"], sqlite_where=_THERE, postgresql_where=_THERE)
    _tallies()


def _name_vms() -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT vm, status FROM vms WHERE status IS NOT NULL")).all()
    for vm, status in rows:
        name = msgspec.msgpack.decode(status)["name"]
        connection.execute(sa.text("UPDATE vms SET name = :name WHERE vm = :vm"), {"name": name, "vm": vm})


def _tallies() -> None:
    op.create_table(
        "tallies",
        sa.Column("submission", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("submission", "owner", "state", "shard", name="pk_tallies"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO tallies (submission, owner, state, shard, count) "
        "SELECT submission, owner, state, 0, count(*) FROM jobs GROUP BY submission, owner, state"
    )
    op.execute(
        "INSERT INTO tallies (submission, owner, state, shard, count) "
        "SELECT 0, owner, state, 0, count(*) FROM jobs GROUP BY owner, state"
    )
