"""What happens to VMs and hosts is written down, and what was told last of a host's presence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the tables and the column. Nothing is told of what was before."""
    op.add_column("hosts", sa.Column("told", sa.Text(), nullable=False, server_default=sa.text("''")))
    op.execute("UPDATE hosts SET told = CASE WHEN present THEN 'present' ELSE 'absent' END")
    _rows()
    for name in ("vm", "name", "host"):
        op.create_index(f"ix_happenings_{name}", "happenings", [name, "number"])
    op.create_index("ix_happenings_at", "happenings", ["at_ms", "number"])
    op.create_table(
        "happening_numbers",
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        sa.Column("kept", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_happening_numbers"),
    )
    op.execute("INSERT INTO happening_numbers (number, last, removed, kept) VALUES (1, 0, 0, 0)")
    op.create_table(
        "happening_budgets",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_happening_budgets"),
        sqlite_with_rowid=False,
    )


def _rows() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "happenings",
        sa.Column("number", number, nullable=False, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("was", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_happenings"),
    )
