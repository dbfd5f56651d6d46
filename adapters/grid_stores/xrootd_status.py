"""What XRootD's client says went wrong, as our errors: the one place where its numbers are known.

Codes below 400 are the client's own; at 400 a server has answered, and its number says what.
"""

from __future__ import annotations

from typing import Any

from adapters.errors import (
    GridStoreError,
    GridStoreFull,
    GridStoreRefused,
    GridStoreUnavailable,
    NotInGridStore,
)
from schemas.plain_text import plain

#: The client's: login, authentication and TLS have failed, or it has been asked for what it has not.
_REFUSED_CODES = {9, 13, 15, 110, 203, 204}
_ERROR_RESPONSE = 400

_FILE_SYSTEM_ERROR = 3005
_NO_SPACE, _OVER_QUOTA = 3009, 3021
_NOT_FOUND = 3011
_UNSUPPORTED = 3013
#: The server's: arguments, rights, kinds of file, read-only, TLS required, authentication.
_REFUSED_NUMBERS = {3000, 3001, 3002, 3006, 3010, 3013, 3015, 3016, 3018, 3025, 3028, 3030, 3031}
#: A number is everything that has no other one; a server that exports a path read-only says it in words alone.
_REFUSED_WORDS = ("read/only", "read-only", "not a directory", "not empty", "permission denied")
#: At the end of what a copy says, where it names the end that failed.
_ENDS = (" (destination)", " (source)")

_ADVICE = {
    GridStoreFull: "free some space there or have our quota raised; we try again",
    GridStoreUnavailable: "we try again",
    GridStoreRefused: "see to it that what we log in with may write there",
}


def is_unsupported(status: Any) -> bool:
    """Say whether a server has answered that it does not do what it was asked."""
    return (status.code, status.errno) == (_ERROR_RESPONSE, _UNSUPPORTED)


def is_absent(status: Any) -> bool:
    """Say whether a server has answered that there is no such file."""
    return (status.code, status.errno) == (_ERROR_RESPONSE, _NOT_FOUND)


def error_of(status: Any, url: str) -> GridStoreError:
    """Give our error for a status that is not ok."""
    words = plain(" ".join(str(status.message).split()))
    for end in _ENDS:
        words = words.removesuffix(end).removesuffix(":")
    kind = _kind(status.code, status.errno, words.lower())
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    return kind(f"grid store {url}: {words}{advice}")


def _kind(code: int, number: int, words: str) -> type[GridStoreError]:
    if code != _ERROR_RESPONSE:
        return GridStoreRefused if code in _REFUSED_CODES else GridStoreUnavailable
    if number in (_NO_SPACE, _OVER_QUOTA):
        return GridStoreFull
    if number == _NOT_FOUND:
        return NotInGridStore
    if number in _REFUSED_NUMBERS:
        return GridStoreRefused
    if number == _FILE_SYSTEM_ERROR and any(word in words for word in _REFUSED_WORDS):
        return GridStoreRefused
    return GridStoreUnavailable
