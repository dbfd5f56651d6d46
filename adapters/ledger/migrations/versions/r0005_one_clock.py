"""Leases by a clock of their own; waits, standing and shares, so that what is bad for a job is given less of it."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_WAITING = sa.text("state = 'submitted' AND not_before_ms = 0")
_DELAYED = sa.text("state = 'submitted' AND not_before_ms > 0")
_LARGE = sa.text("ended_ms = 0 AND large = 1")
_SPEAKS = sa.text("agent = 'speaks'")
_RESTS = sa.text("rest_until_ms > 0")


def upgrade() -> None:
    """Add the clock, who reads beats, and the columns; a cancel is final at once, so none is pending any more."""
    _make_clock()
    _add("hosts", "beat_ms", "rest_until_ms", whole=("strikes",))
    _add("vms", "told_generation", "beat_ms", "rest_until_ms", whole=("strikes",), words=("agent", "boot_id"))
    _add("vms", "kept_until_ms", "kept_for")
    _add("jobs", "not_before_ms", "avoid_until_ms", words=("avoid_vm",))
    _add("attempts", "cpus", "memory_mib", "disk_mib", whole=("place", "large"))
    op.execute("UPDATE vms SET beat_ms = agent_seen_ms, told_generation = generation")
    op.execute("UPDATE vms SET agent = 'speaks' WHERE agent_seen_ms > 0")
    op.execute("UPDATE hosts SET beat_ms = seen_ms")
    op.drop_column("jobs", "cancel_requested")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_index("ix_jobs_order", table_name="jobs")
    _index("ix_jobs_waiting", "jobs", ["shape", "rank", "number"], _WAITING)
    _index("ix_jobs_order", "jobs", ["rank", "number"], _WAITING)
    _index("ix_jobs_delayed", "jobs", ["not_before_ms"], _DELAYED)
    _index("ix_attempts_large", "attempts", ["vm"], _LARGE)
    _index("ix_vms_speaking", "vms", ["beat_ms"], _SPEAKS)
    _index("ix_vms_resting", "vms", ["rest_until_ms"], _RESTS)


def _make_clock() -> None:
    op.create_table(
        "lease_clock",
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("now_ms", sa.BigInteger(), nullable=False),
        sa.Column("kept_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_lease_clock"),
    )
    op.create_table(
        "adapters",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("adapter", name="pk_adapters"),
    )
    begin = sa.text("INSERT INTO lease_clock (number, now_ms, kept_by) VALUES (1, :now_ms, '')")
    op.execute(begin.bindparams(now_ms=time.time_ns() // 1_000_000))


def _add(table: str, *times: str, whole: tuple[str, ...] = (), words: tuple[str, ...] = ()) -> None:
    zero, empty = sa.text("0"), sa.text("''")
    for name in times:
        op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default=zero))
    for name in whole:
        op.add_column(table, sa.Column(name, sa.Integer(), nullable=False, server_default=zero))
    for name in words:
        op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default=empty))


def _index(name: str, table: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, table, columns, unique=False, sqlite_where=where, postgresql_where=where)
