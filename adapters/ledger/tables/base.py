"""What every table of the ledger is made with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Index, Integer, MetaData

metadata = MetaData()

#: A row number; SQLite counts only columns that are called INTEGER.
Number = BigInteger().with_variant(Integer, "sqlite")


def index_where(name: str, condition: ColumnElement[bool], *columns: Column[Any]) -> None:
    """Index the rows of a table that meet a condition.

    It serves only a query in which the condition stands written out: it is made of literals.
    """
    Index(name, *columns, sqlite_where=condition, postgresql_where=condition)
