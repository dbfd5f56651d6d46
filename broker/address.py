"""Where a broker is and as whom to go there: one frozen value, kept in a 0600 file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

#: The one virtual host of a deployment.
VHOST = "volunteer-cloud"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A broker and a principal's credential for it."""

    host: str
    port: int
    user: str
    password: str
    vhost: str = VHOST

    def __repr__(self) -> str:
        return f"Address({self.user}@{self.host}:{self.port}/{self.vhost})"


def write_private(path: Path, body: bytes) -> None:
    """Put ``body`` in a file that only its owner reads; the file is whole or as it was. Makes its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def write_address(path: Path, address: Address) -> None:
    """Keep a credential in a file of mode 0600."""
    write_private(path, msgspec.json.format(msgspec.json.encode(address)))


def read_address(path: Path) -> Address:
    """Read a credential. Raises OSError, or ValueError naming the file and what is wrong in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Address)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a credential: {error}") from error
