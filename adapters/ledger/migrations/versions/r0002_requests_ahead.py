"""Requests say how many jobs would run before theirs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_READY = sa.text("state = 'ready'")


def upgrade() -> None:
    """Add the column, and put it where matching looks first."""
    op.add_column("requests", sa.Column("ahead", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.drop_index("ix_requests_ready", table_name="requests")
    op.create_index(
        "ix_requests_ready",
        "requests",
        ["offer", "ahead", "asked_ms", "vm", "slot"],
        unique=False,
        sqlite_where=_READY,
        postgresql_where=_READY,
    )
