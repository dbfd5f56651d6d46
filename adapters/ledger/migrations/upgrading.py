"""Alembic, which takes longer to load than all else of the ledger: loaded where tables are to be changed."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def config() -> Config:
    """Describe where the migrations are, also from an installed wheel."""
    made = Config()
    made.set_main_option("script_location", "adapters.ledger:migrations")
    return made


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, in the transaction that the connection is in."""
    with_connection = config()
    with_connection.attributes["connection"] = connection
    command.upgrade(with_connection, "head")
