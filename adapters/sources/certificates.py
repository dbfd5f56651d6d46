"""Certificates of TLS: whose server is trusted, and our own, in files that something else renews."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from adapters.errors import SourceRefused, SourceUnavailable

#: What tells one state of our files from another.
Mark = tuple[tuple[int, ...], ...]


class Certificates:
    """The certificates of one server's connections. Its methods may be called from any thread."""

    def __init__(self, ca_file: str, certificate: str = "", key: str = "") -> None:
        """``ca_file``, a file or a directory as OpenSSL has it, empty = the system's; ``certificate`` empty = we show
        none; ``key`` empty = it is in the same file, as in a proxy."""
        self._ca_file = ca_file
        self._files = [Path(name) for name in (certificate, key or certificate) if name]

    def trusted(self) -> ssl.SSLContext:
        """Give what checks servers, and shows them nothing. Raises SourceRefused for certificates that are none."""
        is_directory = bool(self._ca_file) and Path(self._ca_file).is_dir()
        try:
            if is_directory:
                return ssl.create_default_context(capath=self._ca_file)
            return ssl.create_default_context(cafile=self._ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            raise SourceRefused(f"ca_file = {self._ca_file!r}: {error.strerror or error}") from error

    def is_changed(self, mark: Mark) -> bool:
        """Say whether our files are others than they were. One that is not there for a moment is no change."""
        try:
            return bool(self._files) and self._mark() != mark
        except SourceUnavailable:
            return False

    def current(self) -> tuple[Mark, ssl.SSLContext]:
        """Read our files, and give what is to be used. Raises SourceUnavailable that names the file, and
        SourceRefused."""
        context = self.trusted()
        if not self._files:
            return (), context
        mark = self._mark()
        try:
            context.load_cert_chain(self._files[0], self._files[1], password=lambda: b"")
        except OSError as error:
            words = f"holds no certificate, or its key is another or has a password: {error.strerror or error}"
            raise _error(self._files[0], words) from None
        return mark, context

    def _mark(self) -> Mark:
        facts = [_facts(path) for path in self._files]
        if facts[-1].st_mode & 0o007:
            raise _error(
                self._files[-1], f"is with its key, and everybody may read it here: chmod 600 {self._files[-1]}"
            )
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in facts)


def _facts(path: Path) -> os.stat_result:
    try:
        facts = path.stat()
    except OSError as error:
        raise _error(path, f"cannot be read: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISREG(facts.st_mode):
        raise _error(path, "is no regular file")
    return facts


def _error(path: Path, words: str) -> SourceUnavailable:
    return SourceUnavailable(f"certificate: the certificate in {path} {words}")
