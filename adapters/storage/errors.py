"""What can go wrong with the store.

StoreError          full, away, or refusing: the sender keeps the file and tries again
├── NotStored       there is no such file in the store
└── NoRoom          others on their way have the room that it needs: it passes, whoever waits for it spends no patience
TooLarge            more than may be stored: the job has failed, or the person names another file
"""

from __future__ import annotations

from adapters.errors import AdapterError
from schemas.errors import ErrorCode


class StoreError(AdapterError):
    """The store did not do it; nothing under the file's name was changed."""

    code = ErrorCode.STORE


class NotStored(StoreError):
    """The store has no such file."""

    code = ErrorCode.NOT_FOUND


class NoRoom(StoreError):
    """A file has no room beside others on their way; no byte of it was taken, and it has room when those are there."""

    code = ErrorCode.NO_ROOM


class TooLarge(AdapterError):
    """The file is over what may be stored; no byte of it was taken."""

    code = ErrorCode.TOO_LARGE
