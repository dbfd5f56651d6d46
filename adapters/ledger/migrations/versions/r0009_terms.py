"""How long a guest may keep what it was given, what it gives back, and what its host says it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

#: What runs already may go on for the longest wall time and another day, ms.
_LONGEST_MS = 32 * 86_400_000
_KEPT = sa.text("kept_for > 0")


def upgrade() -> None:
    """Add the columns; no attempt is without its term."""
    for table, names in {
        "vms": ("cpus", "returns"),
        "jobs": ("returns",),
        "attempts": ("returns",),
    }.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0")))
    for name in ("may_take_ms", "over_ms", "stretched_ms"):
        op.add_column("attempts", sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute(f"UPDATE attempts SET over_ms = {_LONGEST_MS} + (SELECT now_ms FROM lease_clock) WHERE ended_ms = 0")
    op.create_index("ix_vms_kept", "vms", ["kept_for"], unique=False, sqlite_where=_KEPT, postgresql_where=_KEPT)
