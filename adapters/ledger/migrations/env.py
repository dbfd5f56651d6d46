"""Alembic's hook: runs migrations on the connection, and in the transaction, that ``migrate`` gives it."""

from __future__ import annotations

from alembic import context

from adapters.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
