"""Owners have shares of their own, and are served in turn: waiting jobs and kinds are found by their owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_WAITING = sa.text("state = 'submitted' AND not_before_ms = 0")


def upgrade() -> None:
    """Add the table, and put the owner into the indexes of waiting jobs."""
    op.create_table(
        "owners",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("most_waiting", sa.BigInteger(), nullable=True),
        sa.Column("used", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("occupied", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("owner", name="pk_owners"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "kinds",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("shape", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "shape", name="pk_kinds"),
        sa.ForeignKeyConstraint(["shape"], ["shapes.number"], name="fk_kinds_shape_shapes", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_kinds_shape", "kinds", ["shape", "owner"])
    known = "SELECT DISTINCT owner, shape FROM submissions WHERE shape IN (SELECT number FROM shapes)"
    op.execute(f"INSERT INTO kinds (owner, shape) {known}")
    for name, first in (("ix_jobs_waiting", ["owner", "shape"]), ("ix_jobs_order", ["owner"])):
        op.drop_index(name, table_name="jobs")
        columns = [*first, "rank", "number"]
        op.create_index(name, "jobs", columns, sqlite_where=_WAITING, postgresql_where=_WAITING)
