"""Owners have shares of their own, and are served in turn: waiting jobs are found by their owner."""

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
    for name, first in (("ix_jobs_waiting", ["owner", "shape"]), ("ix_jobs_order", ["owner"])):
        op.drop_index(name, table_name="jobs")
        columns = [*first, "rank", "number"]
        op.create_index(name, "jobs", columns, sqlite_where=_WAITING, postgresql_where=_WAITING)
