"""Where a broker is and as whom to go there: one frozen value, kept in a 0600 file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker import durable
from broker.peer import ANYBODY

#: The one virtual host of a deployment.
VHOST = "volunteer-cloud"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A broker and a principal's credential for it."""

    host: str
    port: int
    user: str
    password: str
    vhost: str = VHOST
    #: User id to whom the broker must belong before it is sent the password (``broker.peer``); a private node's.
    owner: int = ANYBODY

    def __repr__(self) -> str:
        return f"Address({self.user}@{self.host}:{self.port}/{self.vhost})"


def write_address(path: Path, address: Address) -> None:
    """Keep a credential in a file of mode 0600."""
    durable.replace(path, msgspec.json.format(msgspec.json.encode(address)))


def read_address(path: Path) -> Address:
    """Read a credential. Raises OSError, or ValueError naming the file and what is wrong in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Address)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a credential: {error}") from error
