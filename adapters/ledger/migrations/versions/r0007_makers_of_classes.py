"""Classes of jobs and machines name who made them first: of one maker there are so many and no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; whose the classes are that are there, nobody knows, and they count for nobody."""
    for table in ("shapes", "offers"):
        op.add_column(table, sa.Column("made_by", sa.Text(), nullable=False, server_default=sa.text("''")))
        op.create_index(f"ix_{table}_made_by", table, ["made_by"])
