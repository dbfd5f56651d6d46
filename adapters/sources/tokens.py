"""Credentials in files: what ``dirac login`` has written, or a bare token that something else renews.

A file is read again when it has changed. What ``dirac login`` has written is refreshed here, under the lock that its
own client takes, and written back in place as that does. A token leaves this module in the request that it is for, and
is in no error, log or ``repr``. Methods may be called from any thread.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from adapters.errors import SourceUnavailable
from broker.durable import write_all

log = logging.getLogger(__name__)

#: A file that is longer holds no credential, bytes.
MOST_BYTES = 64 << 10
#: A token that lasts no longer than this is refreshed before it is used, seconds.
SPARE_S = 60.0
#: How long another program may take to refresh one, seconds, and how often it is looked whether it has.
LOCK_S, _LOCK_LOOKS = 5.0, 50


class TokenAnswer(Struct, frozen=True):
    """What the server gives for a refresh token."""

    access_token: str
    expires_in: float
    refresh_token: str = ""

    def __repr__(self) -> str:
        return "TokenAnswer(…)"


class _Kept(Struct, frozen=True):
    """A file as it was read."""

    access_token: str
    refresh_token: str = ""
    expires_on: float = 0.0

    def __repr__(self) -> str:
        return "_Kept(…)"


class _Claims(Struct):
    exp: float = 0.0


#: Gives the answer to a refresh token. Raises SourceError.
Renew = Callable[[str], TokenAnswer]


class TokenFile:
    """A token of one file."""

    def __init__(self, path: Path, what: str, clock_s: Callable[[], float] = time.time) -> None:
        """``what`` says in errors whose it is; ``clock_s`` tells seconds since 1970."""
        self.path, self.what = path, what
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._never = threading.Event()
        self._kept: _Kept | None = None
        self._mark: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"TokenFile({self.what!r}, {str(self.path)!r})"

    def bearer(self, renew: Renew | None) -> str:
        """Give a token that lasts, refreshed where that is due and can be. Raises SourceUnavailable that names the
        file."""
        with self._lock:
            kept = self._current()
            if kept.expires_on and kept.expires_on - self._clock_s() < SPARE_S:
                if kept.refresh_token and renew is not None:
                    kept = self._renewed(renew)
                elif kept.expires_on <= self._clock_s():
                    raise self._error(f"expired {self._ago(kept.expires_on)}; whatever renews it has not done so")
            return kept.access_token

    def after_refusal(self, refused: str, renew: Renew | None) -> str:
        """Give another token than one that the server has refused. Raises SourceUnavailable where there is none."""
        with self._lock:
            kept = self._current()
            if kept.access_token != refused:
                return kept.access_token
            if not kept.refresh_token or renew is None:
                raise self._error(
                    "is refused by the server, and nothing renews it here: log in again, or have it written"
                )
            return self._renewed(renew).access_token

    def _current(self) -> _Kept:
        """Read the file if it has changed, and not while another program writes it: that is done in place."""
        with self._opened(os.O_RDONLY) as file:
            try:
                if self._is_changed(file):
                    self._take_lock(file, fcntl.LOCK_SH)
            except SourceUnavailable:
                if self._kept is None or not self._lasts(self._kept):
                    raise
                return self._kept
            return self._read(file)

    def _lasts(self, kept: _Kept) -> bool:
        return not kept.expires_on or kept.expires_on - self._clock_s() >= SPARE_S

    def _read(self, file: BinaryIO) -> _Kept:
        mark = self._mark_of(file)
        if self._kept is None or mark != self._mark:
            file.seek(0)
            self._kept, self._mark = self._parsed(file.read(MOST_BYTES + 1)), mark
        return self._kept

    def _is_changed(self, file: BinaryIO) -> bool:
        return self._kept is None or self._mark_of(file) != self._mark

    def _mark_of(self, file: BinaryIO) -> tuple[int, ...]:
        facts = os.fstat(file.fileno())
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    def _renewed(self, renew: Renew) -> _Kept:
        """Refresh under the file's lock, unless another process has just done so."""
        with self._opened(os.O_RDWR) as file:
            self._take_lock(file, fcntl.LOCK_EX)
            before, kept = self._kept, self._read(file)
            if before is not None and kept.access_token != before.access_token:
                return kept
            try:
                answer = renew(kept.refresh_token)
            except SourceUnavailable as error:
                raise self._error(f"is to be refreshed: {error}") from error
            if not _may_be_token(answer.access_token):
                raise self._error("was to be refreshed, and the server's answer holds no token")
            fresh = _Kept(
                answer.access_token,
                answer.refresh_token or kept.refresh_token,
                self._clock_s() + answer.expires_in,
            )
            return self._kept_in(file, fresh)

    def _kept_in(self, file: BinaryIO, fresh: _Kept) -> _Kept:
        """Write a fresh token into the file. Where that fails it is used all the same, and written with the next one:
        the one before is spent, and to show it again would end the login."""
        try:
            _write_over(file, msgspec.json.encode({name: getattr(fresh, name) for name in fresh.__struct_fields__}))
        except OSError as error:
            log.error("a fresh token cannot be kept", extra={"file": str(self.path), "why": error.strerror})
            self._kept, self._mark = fresh, self._mark_of(file)
            return fresh
        self._mark = ()
        return self._read(file)

    def _take_lock(self, file: BinaryIO, kind: int) -> None:
        """Lock the file against other programs that refresh it. To read (``LOCK_SH``) it does without where the file
        system has no locks."""
        for _ in range(_LOCK_LOOKS):
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                self._never.wait(LOCK_S / _LOCK_LOOKS)
            except OSError as error:
                if kind == fcntl.LOCK_SH:
                    return
                raise self._error(f"cannot be locked: {os.strerror(error.errno or 0)}") from None
            else:
                return
        raise self._error(f"is held by another program for more than {LOCK_S:g} s")

    def _opened(self, flags: int) -> BinaryIO:
        try:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise self._error("is not there: log in, or have it written") from None
        except PermissionError:
            raise self._error("may not be read by this process: look at its owner and mode") from None
        except OSError as error:
            raise self._error(f"cannot be read: {os.strerror(error.errno or 0)}") from None
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and not mode & 0o007:
            return os.fdopen(descriptor, "r+b" if flags else "rb")
        os.close(descriptor)
        raise self._error(
            f"can be read by everybody on this machine: chmod 600 {self.path}"
            if stat.S_ISREG(mode)
            else "is no regular file"
        )

    def _parsed(self, body: bytes) -> _Kept:
        if len(body) > MOST_BYTES:
            raise self._error(f"has more than {MOST_BYTES} bytes: it holds no credential")
        text = body.strip()
        try:
            kept = msgspec.json.decode(text, type=_Kept) if text.startswith(b"{") else _Kept(text.decode("ascii"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            # What was read is no part of the error: it may be half a token.
            raise self._error("holds neither a token nor what a login has written") from None
        if " " in kept.access_token:
            raise self._error("holds more than a token")
        if not _may_be_token(kept.access_token):
            raise self._error("holds no token")
        return msgspec.structs.replace(kept, expires_on=kept.expires_on or _expiry(kept.access_token))

    def _ago(self, then_s: float) -> str:
        return f"{max(1, round((self._clock_s() - then_s) / 60))} min ago"

    def _error(self, words: str) -> SourceUnavailable:
        return SourceUnavailable(f"the credential in {self.path}, of {self.what}, {words}")


def _may_be_token(text: str) -> bool:
    """Say whether a text can stand in a header as a token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _write_over(file: BinaryIO, body: bytes) -> None:
    """Write a file anew in place: others hold its lock by this very file."""
    descriptor = file.fileno()
    write_all(descriptor, body, 0)
    os.ftruncate(descriptor, len(body))
    os.fsync(descriptor)


def _expiry(token: str) -> float:
    """Read from a token until when it lasts, seconds since 1970; 0 where it does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0.0
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims).exp
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return 0.0
