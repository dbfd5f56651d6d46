"""What is kept ages by the lease clock, which steps with no machine's clock and stands while nothing is served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_ENDED = sa.text("ended_ms > 0")
_HELD = sa.text("state = 'held'")
_ABSENT = sa.text("state = 'absent'")
_NOW = "(SELECT now_ms FROM lease_clock WHERE number = 1)"


def upgrade() -> None:
    """Let everything that is there begin to age now: by which clock its times were told, nobody knows."""
    for table, column in (("jobs", "since_ms"), ("outbox", "put_ms")):
        op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=False, server_default=sa.text("0")))
        op.execute(f"UPDATE {table} SET {column} = {_NOW}")
    op.execute(f"UPDATE deleted SET deleted_ms = {_NOW}")
    op.execute("UPDATE adapters SET seen_ms = 0")
    for table in ("shapes", "offers"):
        op.execute(f"UPDATE {table} SET retired_ms = {_NOW} WHERE retired_ms > 0")
    op.drop_index("ix_jobs_ended", table_name="jobs")
    _index("ix_jobs_ended", "jobs", ["since_ms", "number"], _ENDED)
    _index("ix_jobs_held", "jobs", ["since_ms", "number"], _HELD)
    op.drop_index("ix_vms_absent", table_name="vms")
    _index("ix_vms_absent", "vms", ["beat_ms"], _ABSENT)


def _index(name: str, table: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)
