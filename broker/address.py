"""Where a broker is and as whom to go there: one frozen value, kept in a 0600 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from broker import durable
from broker.peer import ANYBODY
from schemas.endpoints import Endpoint, Tls

#: The one virtual host of a deployment.
VHOST = "volunteer-cloud"
#: Brokers of one deployment, of which any will do; the same user, queues and messages are on all of them.
Endpoints = Annotated[tuple[Endpoint, ...], msgspec.Meta(min_length=1, max_length=16)]


class BrokerAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Where a broker is, how to know it, and as whom to go there."""

    user: str
    password: str
    endpoints: Endpoints
    vhost: str = VHOST
    #: None: in plain text, as on loopback.
    tls: Tls | None = None
    #: User id to whom the broker must belong before it is sent the password (``broker.peer``); a private node's.
    owner: int = ANYBODY


class Address(BrokerAccess, frozen=True, kw_only=True):
    """A broker and a principal's credential for it."""

    @property
    def where(self) -> str:
        """The endpoints, for a person."""
        return ", ".join(map(str, self.endpoints))

    def __repr__(self) -> str:
        return f"Address({self.user}@{self.where}/{self.vhost})"


class AdminAddress(BrokerAccess, frozen=True, kw_only=True):
    """A broker's administration: its AMQP and its management API, and the administrator's credential for both."""

    management: Endpoints

    def login(self, user: str, password: str) -> Address:
        """Give the address of the same broker for somebody."""
        return Address(
            user=user,
            password=password,
            endpoints=self.endpoints,
            vhost=self.vhost,
            tls=self.tls,
            owner=self.owner,
        )

    def __repr__(self) -> str:
        amqp, management = (", ".join(map(str, some)) for some in (self.endpoints, self.management))
        return f"AdminAddress({self.user}, amqp {amqp}, management {management})"


def write_address(path: Path, address: BrokerAccess) -> None:
    """Keep a credential in a file of mode 0600."""
    durable.replace(path, msgspec.json.format(msgspec.json.encode(address)))


def read_address(path: Path) -> Address:
    """Read a credential. Raises OSError, or ValueError naming the file and what is wrong in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Address)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a credential: {error}") from error
