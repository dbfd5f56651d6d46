"""What ends by age can be found by it; inputs are known by submission; what was deleted leaves a trace for a while."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ENDED = sa.text("ended_ms > 0")
_ABSENT = sa.text("state = 'absent'")


def upgrade() -> None:
    """Make the indexes and tables that retention needs."""
    op.create_index("ix_jobs_ended", "jobs", ["ended_ms", "number"], sqlite_where=_ENDED, postgresql_where=_ENDED)
    op.create_index("ix_vms_absent", "vms", ["agent_seen_ms"], sqlite_where=_ABSENT, postgresql_where=_ABSENT)
    op.create_index("ix_vms_offer", "vms", ["offer"])
    op.create_index("ix_submissions_shape", "submissions", ["shape"])
    for table in ("shapes", "offers"):
        op.add_column(table, sa.Column("retired_ms", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    _inputs()
    op.create_table(
        "deleted",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("deleted_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id", name="pk_deleted"),
        sa.Index("ix_deleted_ms", "deleted_ms"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "removals",
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("ref", name="pk_removals"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "identity",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identity"),
    )
    op.get_bind().execute(sa.text("INSERT INTO identity (id) VALUES (:id)"), {"id": uuid4().hex})


def _inputs() -> None:
    op.create_table(
        "inputs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("submission", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "submission", name="pk_inputs"),
        sa.Index("ix_inputs_submission", "submission"),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    for number, body in connection.execute(sa.text("SELECT number, description FROM submissions")).all():
        described = msgspec.msgpack.decode(body) if body else {}
        for digest in sorted({one["sha256"] for one in described.get("inputs", []) if one.get("sha256")}):
            connection.execute(
                sa.text("INSERT INTO inputs (sha256, submission) VALUES (:digest, :number)"),
                {"digest": digest, "number": number},
            )
