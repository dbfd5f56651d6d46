"""What grids have given waits in a table until it is a job; deliveries go step by step; sources tell how they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_EMPTY, _ZERO = sa.text("''"), sa.text("0")


def upgrade() -> None:
    """Add the tables and the columns."""
    op.add_column("deliveries", sa.Column("step", sa.Text(), nullable=False, server_default=_EMPTY))
    op.add_column("deliveries", sa.Column("kept", sa.LargeBinary(), nullable=True))
    op.add_column("deliveries", sa.Column("claim", sa.BigInteger(), nullable=False, server_default=_ZERO))
    op.add_column("deliveries", sa.Column("taken_by", sa.Text(), nullable=False, server_default=_EMPTY))
    op.create_table(
        "acquisitions",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("work", sa.LargeBinary(), nullable=True),
        sa.Column("flaw", sa.Text(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=False, server_default=_EMPTY),
        sa.PrimaryKeyConstraint("source", "id", "attempt", name="pk_acquisitions"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_acquisitions_due", "acquisitions", ["source", "due_ms"])
    op.create_table(
        "sources",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False, server_default=_ZERO),
        sa.Column("given_ms", sa.BigInteger(), nullable=False, server_default=_ZERO),
        sa.Column("next_ms", sa.BigInteger(), nullable=False, server_default=_ZERO),
        sa.Column("claimed", sa.Integer(), nullable=False, server_default=_ZERO),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=False, server_default=_ZERO),
        sa.Column("trouble", sa.Text(), nullable=False, server_default=_EMPTY),
        sa.Column("trouble_ms", sa.BigInteger(), nullable=False, server_default=_ZERO),
        sa.PrimaryKeyConstraint("source", name="pk_sources"),
        sqlite_with_rowid=False,
    )
