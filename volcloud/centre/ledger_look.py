"""A look at the ledger's database: whether it answers. A module of its own, since SQLAlchemy takes long to load."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from broker.masking import mask


def look_at(ledger_url: str, answer_s: float) -> str:
    """Ask it for a row; give what is wrong with it, without passwords, or nothing."""
    try:
        _ask(ledger_url, answer_s)
    except SQLAlchemyError as error:
        return f"its database cannot be used: {mask(str(getattr(error, 'orig', None) or error).strip())}"
    return ""


def _ask(ledger_url: str, answer_s: float) -> None:
    url = make_url(ledger_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    bound: dict[str, Any] = {} if is_sqlite else {"connect_timeout": int(answer_s)}
    engine = create_engine(url if is_sqlite else url.set(drivername="postgresql+psycopg"), connect_args=bound)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM (SELECT 1 FROM jobs LIMIT 1) AS one"))
    finally:
        engine.dispose()
