"""The job ledger: what was submitted, who asked for work, who has what, how it ended; on SQLite or PostgreSQL.

Every function takes a ``Tx`` and runs inside ``Ledger.write`` or ``Ledger.read``; none of them publishes, sleeps or
commits. Messages that a change causes are rows of the outbox in the same transaction.
"""
