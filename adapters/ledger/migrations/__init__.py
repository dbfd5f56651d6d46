"""The ledger's tables through the releases: Alembic's environment and one file a change, packaged with the code.

``migrate`` is the only way in; there is no alembic.ini. Migrations are never edited once released. Each file is named
for its revision, and the last one is the newest.
"""

from __future__ import annotations

import pkgutil

from sqlalchemy import Engine, inspect, text

from adapters.errors import LedgerError
from adapters.ledger.connections import mapped
from adapters.ledger.migrations import versions

#: What adapters of an older release leave out of newer tables while they go on beside this one. Idempotent.
_COMPLETE = text(
    "INSERT INTO kinds (owner, shape) SELECT DISTINCT owner, shape FROM submissions "
    "WHERE shape IN (SELECT number FROM shapes) AND NOT EXISTS "
    "(SELECT 1 FROM kinds WHERE kinds.owner = submissions.owner AND kinds.shape = submissions.shape) "
    "ON CONFLICT (owner, shape) DO NOTHING"
)
#: Advisory lock under which PostgreSQL migrates; SQLite has its write lock.
MIGRATION_LOCK = 0x766F6C636C6F7565


def revisions() -> list[str]:
    """Name the revisions that this release knows, the newest last."""
    return sorted(module.name[1:5] for module in pkgutil.iter_modules(versions.__path__))


def migrate(engine: Engine) -> None:
    """Bring the database to the newest revision in one transaction; idempotent, and safe in several processes.

    Adapters of the release before may go on meanwhile and afterwards; what they leave out is made good each time.
    """

    with mapped(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        current = None
        if inspect(connection).has_table("alembic_version"):
            current = connection.scalar(text("SELECT version_num FROM alembic_version"))
        known = revisions()
        if current == known[-1]:
            connection.execute(_COMPLETE)
            return
        if current not in {None, *known}:
            raise LedgerError(f"the ledger is at revision {current}, which this release does not know: upgrade it")
        from adapters.ledger.migrations.upgrading import upgrade

        upgrade(connection)
