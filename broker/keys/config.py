"""What the key manager is told at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from broker.address import AdminAddress
from broker.errors import ConfigError
from broker.topology import Profile
from schemas.ids import Principal

Seconds = Annotated[float, Meta(gt=0)]


class KeysConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``key_manager``."""

    #: File that says where the broker is and who administers it; a private node writes one, ``administration.json``.
    administrator: str
    #: Directory of its database and of ``credentials/<principal>.json``.
    directory: str
    #: Principals that exist whenever it runs; one deleted meanwhile comes back at the next start.
    principals: list[Principal] = []
    profile: Profile = Profile.SINGLE
    #: VMs that one host may have.
    vms_of_host: Annotated[int, Meta(ge=1, le=1000)] = 128
    #: How long a one-time login that nobody used to the end is good; only time counts in which it could be used.
    once_lifetime_s: Seconds = 600.0
    #: How often old logins and connections are looked for.
    sweep_s: Seconds = 30.0


def read_administrator(config: KeysConfig) -> AdminAddress:
    """Read the administrator's credential. Raises ConfigError naming the file."""
    path = Path(config.administrator)
    try:
        return msgspec.json.decode(path.read_bytes(), type=AdminAddress)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"administrator = {config.administrator!r}: no address and credential: {error}") from error
