"""An index of the VMs that a host has had and has no more, so that their number can be bounded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_ABSENT = sa.text("state = 'absent'")


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_vms_gone", "vms", ["host"], unique=False, sqlite_where=_ABSENT, postgresql_where=_ABSENT)
