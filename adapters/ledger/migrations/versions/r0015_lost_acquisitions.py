"""What a grid has given counts how often whoever had taken it was never heard of again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the count."""
    op.add_column("acquisitions", sa.Column("lost", sa.Integer(), nullable=False, server_default=sa.text("0")))
