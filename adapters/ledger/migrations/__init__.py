"""The ledger's tables through the releases: Alembic's environment and one file a change, packaged with the code.

``migrate`` is the only way in; there is no alembic.ini. Migrations are never edited once released.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from adapters.errors import LedgerError
from adapters.ledger.connections import mapped

#: Advisory lock under which PostgreSQL migrates; SQLite has its write lock.
MIGRATION_LOCK = 0x766F6C636C6F7565


def config() -> Config:
    """Describe where the migrations are, also from an installed wheel."""
    made = Config()
    made.set_main_option("script_location", "adapters.ledger:migrations")
    return made


def migrate(engine: Engine) -> None:
    """Bring the database to the newest revision in one transaction; idempotent, and safe in several processes."""

    with mapped(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        script = ScriptDirectory.from_config(config())
        current = None
        if inspect(connection).has_table("alembic_version"):
            current = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if current == script.get_current_head():
            return
        if current not in {None, *(revision.revision for revision in script.walk_revisions())}:
            raise LedgerError(f"the ledger is at revision {current}, which this release does not know: upgrade it")
        with_connection = config()
        with_connection.attributes["connection"] = connection
        command.upgrade(with_connection, "head")
