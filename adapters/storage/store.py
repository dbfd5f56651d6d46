"""The store: inputs by digest and outputs by attempt, on whatever file system fsspec opens.

A file appears under its name by one move, whole, and on a local disk durably; there its time is the store's clock's,
which is the ledger's in an adapter, so that no machine's clock makes it old. What an attempt stored means nothing until
the ledger points to it. Every method blocks and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from adapters.errors import NotStored, StoreError
from adapters.storage.contract import StoredFile
from broker import durable, reserve
from schemas.files import GuestFile, InputFile, OutputFile

#: Directory of the store where files are until they are whole.
UNFINISHED = "unfinished"
#: End of the name under which an input lies there that is looked at once more.
ASIDE = ".aside"


class FsspecStore:
    """A store at an fsspec URL, such as ``file:///srv/volcloud/store``."""

    def __init__(self, url: str, clock_s: Callable[[], float] = time.time) -> None:
        """``clock_s`` tells the time by which files grow old, seconds since 1970."""
        with mapped(url):
            self.system, self.root = fsspec.url_to_fs(url)
        self.url = url
        self._clock_s = clock_s
        #: Unfinished files that were there at the last look, and when they had been changed.
        self._unfinished: dict[str, float] = {}
        self.is_local = "file" in _protocols(self.system)

    def holds(self, file: StoredFile, size: int) -> bool:
        """Say whether a file of that name and size is there, its name durable. An input's name is its digest; of an
        output the digest is to be looked at."""
        path = self._path(file)
        with mapped(self.url):
            if not self.system.exists(path) or self.system.size(path) != size:
                return False
            self._sync_directories(path)
            return isinstance(file, OutputFile) or self.has_input(file.sha256)

    def state(self, file: StoredFile) -> str:
        """Tell a file's present bytes from those that it may have later. Raises NotStored, StoreError."""
        path = self._path(file)
        with mapped(self.url):
            return f"{path} {self.system.ukey(path)}"

    def size(self, file: StoredFile) -> int:
        """Give a file's size. Raises NotStored, StoreError."""
        with mapped(self.url):
            return int(self.system.size(self._path(file)))

    def digest(self, file: StoredFile) -> tuple[int, str]:
        """Read a file: its size and SHA-256. Raises NotStored, StoreError."""
        digest, size = hashlib.sha256(), 0
        with mapped(self.url), self.system.open(self._path(file), "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
                size += len(block)
        return size, digest.hexdigest()

    def read(self, file: StoredFile, offset: int, size: int) -> bytes:
        """Read ``size`` bytes of a file, or what there is up to its end. Raises NotStored, StoreError."""
        with mapped(self.url):
            return bytes(self.system.cat_file(self._path(file), start=offset, end=offset + size))

    def has_input(self, sha256: str) -> bool:
        """Say whether an input is there. It is young from then on: what a job is submitted with is not cleared away."""
        path = self._path(InputFile(sha256=sha256))
        with mapped(self.url):
            if not self.is_local:
                return bool(self.system.exists(path))
            try:
                self._date(path)
            except FileNotFoundError:
                return False
            return True

    def put(self, local: Path, file: StoredFile) -> None:
        """Store a local file, which is gone afterwards. Raises StoreError; what was stored is as before then, and the
        local file stays. On one file system nothing is copied; elsewhere holes stay holes."""
        with mapped(self.url), self._appearing(file, local.stat().st_size) as fresh:
            if self.is_local:
                _link_or_copy(local, Path(fresh))
            else:
                self.system.put_file(str(local), fresh)
        local.unlink(missing_ok=True)

    def put_bytes(self, content: bytes, file: StoredFile) -> None:
        """Store bytes. Raises StoreError; what was stored is as before then."""
        with mapped(self.url), self._appearing(file, len(content)) as fresh:
            if self.is_local:
                reserve.demand(Path(fresh).parent, len(content))
            self.system.pipe_file(fresh, content)

    def try_out(self) -> None:
        """Write a small file and remove it again. Raises StoreError where none can be written."""
        fresh = f"{self.root}/{UNFINISHED}/{secrets.token_hex(16)}"
        with mapped(self.url):
            self.system.makedirs(fresh.rpartition("/")[0], exist_ok=True)
            if self.is_local:
                reserve.demand(Path(fresh).parent, 1)
            try:
                self.system.pipe_file(fresh, b"1")
            finally:
                if self.system.exists(fresh):
                    self.system.rm_file(fresh)

    @contextlib.contextmanager
    def _appearing(self, file: StoredFile, size: int) -> Iterator[str]:
        """Give a name to write under; the file appears under its own when that has succeeded, every byte of it."""
        path = self._path(file)
        fresh = f"{self.root}/{UNFINISHED}/{secrets.token_hex(16)}"  # a name with anything added may be too long
        self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.system.makedirs(fresh.rpartition("/")[0], exist_ok=True)
        try:
            yield fresh
            if self.is_local:
                self._date(fresh)
                durable.sync_file(Path(fresh))
            if self.system.size(fresh) != size:
                raise StoreError(f"store {self.url}: it took {self.system.size(fresh)} of {size} bytes")
            self.system.mv(fresh, path)
            self._sync_directories(path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.system.rm_file(fresh)
            raise

    def _date(self, path: str) -> None:
        now_s = self._clock_s()
        os.utime(path, (now_s, now_s))

    def remove_unfinished(self, keep_s: float) -> list[str]:
        """Remove what adapters that were killed had begun to write over ``keep_s`` ago; give its names.

        What looks old for the first time is left until the next look: the machine's clock may just have been set
        right, and whoever writes it changes it by then. Raises StoreError.
        """
        place = f"{self.root}/{UNFINISHED}"
        with mapped(self.url):
            if not self.system.exists(place):
                return []
            found = {name: self._modified_s(name) for name in self.system.ls(place, detail=False)}
            old = [
                name
                for name, modified_s in found.items()
                if time.time() - modified_s > keep_s and self._unfinished.get(name) == modified_s
                if not name.endswith(ASIDE)  # an input that was there before
            ]
            self._unfinished = found
            for name in old:
                with contextlib.suppress(FileNotFoundError):  # another adapter looks after the store too
                    self.system.rm_file(name)
        return [name.rpartition("/")[2] for name in old]

    def stored_bytes(self, file: OutputFile) -> int:
        """Say how many bytes the other outputs of an output's attempt have. Raises StoreError."""
        path = f"{self.root}/outputs/{file.job}/{file.attempt}"
        with mapped(self.url):
            if not self.system.exists(path):
                return 0
            sizes: dict[str, int] = self.system.du(path, total=False)
        own = self._path(file)
        return sum(size for name, size in sizes.items() if name != own)

    def age_s(self, name: str) -> float:
        """Give the age of a file by the clock that dated it: the store's where that is local, elsewhere the wall's.
        Of one that has just gone it is 0."""
        now_s = self._clock_s() if self.is_local else time.time()
        return now_s - self._modified_s(name, gone_s=now_s)

    def _modified_s(self, name: str, gone_s: float = math.inf) -> float:
        try:
            modified: datetime = self.system.modified(name)
        except FileNotFoundError:
            return gone_s
        return modified.timestamp()

    def _sync_directories(self, path: str) -> None:
        """Make a name durable: every directory above it, since another thread may just have made any of them."""
        if not self.is_local:
            return
        for directory in Path(path).parents:
            durable.sync_directory(directory)
            if directory == Path(self.root):
                return

    def local(self, file: StoredFile) -> Path | None:
        """Give a file's path on this machine; None where it has to be copied. Raises NotStored, StoreError."""
        path = self._path(file)
        with mapped(self.url):
            if not self.system.exists(path):
                raise NotStored(f"{_name(file)} is not in the store")
        return Path(path) if self.is_local else None

    def copy(self, file: StoredFile, target: Path) -> None:
        """Copy a file into a new one of this machine; nothing of that is left after a failure. Raises StoreError."""
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, durable.PRIVATE))
        try:
            with mapped(self.url):
                self.system.get_file(self._path(file), str(target))
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def _path(self, file: StoredFile | GuestFile) -> str:
        match file:
            case InputFile(sha256=digest):
                return f"{self.root}/inputs/{digest[:2]}/{digest}"
            case OutputFile(job=job, attempt=attempt, name=name):
                _refuse_escape(name)
                return f"{self.root}/outputs/{job}/{attempt}/{name}"
        raise NotStored(f"{file!r} is not a file of the store")


@contextlib.contextmanager
def mapped(url: str) -> Iterator[None]:
    """The one place where fsspec's and the system's errors become ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotStored(f"not in the store: {error.filename or error}") from error
    except OSError as error:
        raise StoreError(f"store {url}: {error}; free some space or mend it, we try again") from error
    except ValueError as error:
        raise StoreError(f"store = {url!r}: {error}") from error


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name; where that cannot be, as on another file system, copy it."""
    try:
        os.link(source, target)
    except OSError:
        durable.copy(source, target)


def _refuse_escape(name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise StoreError(f"name = {name!r}: must stay inside the attempt's area")


def _name(file: StoredFile) -> str:
    return f"input {file.sha256}" if isinstance(file, InputFile) else f"output {file.name!r} of {file.job}"


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
