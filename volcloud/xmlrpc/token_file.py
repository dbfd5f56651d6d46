"""The token: who has it may do what the console may. It is in a file of the data directory, its owner's alone."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from broker import durable
from volcloud.errors import BadInput

#: Random bytes of a token, and characters that one must have.
TOKEN_BYTES = 32
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{32,128}")
_RENEW = "remove the file; the next start makes another"


def token_path(directory: Path) -> Path:
    """Name the file of a data directory's token."""
    return directory / "xmlrpc" / "token"


def have_token(path: Path) -> bytes:
    """Give the token, made at the first time. Raises BadInput for a file that others may read or that holds no token,
    and OSError."""
    if not path.exists():
        _make(path)
    return _read(path)


def _make(path: Path) -> None:
    """Make the file whole or not at all; of two that make it at once, one wins and both use that."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = durable.beside(path, secrets.token_hex(8))
    durable.replace(fresh, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            shown = f"mode {stat.S_IMODE(about.st_mode):04o}, user {about.st_uid}"
            raise BadInput(f"{path}: {shown}: must be a file of yours with mode 0600", _RENEW)
        token = file.read(4096).strip()
    if not _TOKEN.fullmatch(token):
        raise BadInput(f"{path}: holds no token: 32 to 128 letters, digits, '-' and '_'", _RENEW)
    return token


def is_token(token: bytes, authorization: bytes) -> bool:
    """Say whether an ``Authorization`` header has the token: as Bearer, or as Basic's password, whoever the user. The
    time that it takes says nothing of the token."""
    return hmac.compare_digest(token, _given(authorization))


def _given(authorization: bytes) -> bytes:
    scheme, _, word = authorization.strip().partition(b" ")
    match scheme.lower():
        case b"bearer":
            return word.strip()
        case b"basic":
            try:
                return base64.b64decode(word.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
    return b""
