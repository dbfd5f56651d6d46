"""Error codes of the wire, and the one error of the codec.

SchemaError
└── DecodeError     the bytes are not a message of ours; ``reason`` says why, in words for a person

An ``ErrorCode`` is what a reply carries; each package maps its own errors to one of them.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a call failed, in the words of the wire."""

    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    CONFLICT = "conflict"
    ILLEGAL_STATE = "illegal_state"
    STALE_GENERATION = "stale_generation"
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    HYPERVISOR = "hypervisor"
    IMAGE = "image"
    STORE = "store"
    NO_ROOM = "no_room"
    TOO_LARGE = "too_large"
    CANNOT_RUN = "cannot_run"
    INTERNAL = "internal"


class SchemaError(Exception):
    """Base of every error of this floor."""


class DecodeError(SchemaError):
    """The bytes are not a message: too long, not msgpack, an unknown op, or a field of the wrong type."""

    code = ErrorCode.BAD_REQUEST

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
