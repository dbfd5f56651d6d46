"""Submissions say where they came from, and what is to be told there about their jobs waits in a table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_DUE = sa.text("state = 'due'")


def upgrade() -> None:
    """Add the columns and the table. Of what is there the owner tells the source: no row is written again for it."""
    op.add_column("submissions", sa.Column("source", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.add_column("submissions", sa.Column("source_data", sa.LargeBinary(), nullable=True))
    op.create_table(
        "deliveries",
        sa.Column("job", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job", "what", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_deliveries_job"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_deliveries_due", "deliveries", ["source", "due_ms", "job"], sqlite_where=_DUE, postgresql_where=_DUE
    )
