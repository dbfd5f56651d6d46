"""Large arrays are written in portions, and tallies have so many rows and no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_UNMADE = sa.text("made < count")


def upgrade() -> None:
    """Add how many jobs of a submission are there, which are all that it has; sum up what connections had counted."""
    op.add_column("submissions", sa.Column("made", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE submissions SET made = count")
    op.create_index("ix_submissions_unmade", "submissions", ["number"], sqlite_where=_UNMADE, postgresql_where=_UNMADE)
    op.execute(
        "CREATE TEMPORARY TABLE summed AS SELECT submission, owner, state, sum(count) AS count FROM tallies "
        "GROUP BY submission, owner, state"
    )
    op.execute("DELETE FROM tallies")
    op.execute(
        "INSERT INTO tallies (submission, owner, state, shard, count) "
        "SELECT submission, owner, state, 0, count FROM summed WHERE count != 0"
    )
    op.execute("DROP TABLE summed")
