"""Files of images over the network: taken up where they broke off, and checked.

Blocks. Whatever a server announces or sends, the disk's reserve stays free.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from broker import reserve
from host_agent.errors import ImageError

_BLOCK_BYTES = 1024 * 1024
#: A server that says nothing for this long is given up; the next try resumes.
_SILENCE_S = 60.0
_SCHEMES = frozenset({"file", "http", "https"})


#: Read at a time, bytes.
_PIECE_BYTES = 1 << 20


def sha256_of(path: Path, refuse: Callable[[], None] = lambda: None) -> str:
    """Read a file for its digest; ``refuse`` is called for each piece, to break it off. Raises OSError, and what that
    raises."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            refuse()
            digest.update(piece)
    return digest.hexdigest()


def read_url(url: str, most_bytes: int) -> bytes:
    """Give the beginning of what is there. Raises ImageError."""
    with _open_url(url, 0) as response:
        return response.read(most_bytes)


def download(url: str, target: Path, sha256: str, size: int = 0) -> None:
    """Bring a file, or the rest of it; ``size`` 0 = not known. Raises ImageError; what came stays for the next try
    then, unless it is another file."""
    have = target.stat().st_size if target.exists() else 0
    if have == 0 or have != size:
        _append(url, target, have)
    if sha256_of(target) != sha256:
        target.unlink()
        raise ImageError(f"{url} does not have SHA-256 {sha256}; its bytes were thrown away")


def _append(url: str, target: Path, have: int) -> None:
    with _open_url(url, have) as response:
        is_resumed = getattr(response, "status", None) == http.client.PARTIAL_CONTENT
        _check_room(target, _announced(response) or 0)
        with target.open("ab" if is_resumed else "wb") as file:
            try:
                _copy_whole(response, file)
            except (OSError, http.client.HTTPException) as error:
                raise ImageError(f"{url} broke off: {error}; try again, it will go on from there") from error


def _check_room(target: Path, need_bytes: int) -> None:
    """Leave the disk's reserve alone, whatever a server announces, and whatever it sends. Raises ImageError."""
    room = reserve.look(target.parent)
    if need_bytes > room.usable:
        text = f"no room for {target}: {need_bytes} bytes are to come, {room.told()}"
        raise ImageError(f"{text}; free some space there, then again: it will go on from there")


def _announced(response: Any) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length is not None else None


def _copy_whole(response: Any, file: IO[bytes]) -> None:
    """Copy a response; raise ConnectionError if it ends before its announced length, which ``read`` does not."""
    start = file.tell()
    while block := response.read(_BLOCK_BYTES):
        _check_room(Path(file.name), len(block))
        file.write(block)
    announced = _announced(response)
    if announced is not None and file.tell() - start != announced:
        raise ConnectionError(f"{file.tell() - start} of {announced} bytes came")


def _open_url(url: str, start: int) -> IO[bytes]:
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise ImageError(f"cannot fetch {url}: use a file, http or https URL")
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response: IO[bytes] = urllib.request.urlopen(request, timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open_url(url, 0)
        raise ImageError(f"cannot fetch {url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ImageError(f"cannot fetch {url}: {error}") from error
    return response
