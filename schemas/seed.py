"""What a VM is told at boot: where the broker is, who it is, and the one-time login that buys its credential; or that
its host is its centre, and there is no broker.

Carried by the seed mediums, not by the broker; a msgpack map of less than 4 KiB.
"""

from __future__ import annotations

import msgspec

from schemas.endpoints import Endpoint, Tls
from schemas.errors import DecodeError

#: What a medium must be able to carry, bytes.
MAX_SEED_BYTES = 4096


class Seed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM's identity at one boot generation."""

    vm: str
    name: str
    generation: int
    #: Where the broker is; none: the host is this guest's centre, by the road.
    endpoints: tuple[Endpoint, ...] = ()
    vhost: str = ""
    login_user: str = ""
    login_password: str = ""
    #: Job slots; 0 = as many as the guest has cpus.
    slots: int = 0
    #: Settings of the guest agent that the host's owner fixed, by name.
    settings: dict[str, float] = {}
    tls: Tls | None = None
    #: User id to whom the broker must belong before it is sent a password, where the guest is on the broker's machine.
    owner: int = -1
    #: Where the guest meets its host without the broker: ``port:NAME`` of virtio-serial, or ``socket:NAME`` of a unix
    #: socket in its agent's state directory; empty: nowhere.
    road: str = ""


def encode_seed(seed: Seed) -> bytes:
    """Render a seed for its medium."""
    return msgspec.msgpack.encode(seed)


def decode_seed(body: bytes) -> Seed:
    """Read a seed. Raises DecodeError for what is not one."""
    if len(body) > MAX_SEED_BYTES:
        raise DecodeError(f"a seed of {len(body)} bytes is longer than {MAX_SEED_BYTES}")
    try:
        return msgspec.msgpack.decode(body, type=Seed)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not a seed: {error}") from error
