"""Where a broker is, and how its other end is known: words that credentials and seeds share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Host = Annotated[str, Meta(min_length=1, max_length=253)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class Endpoint(Struct, frozen=True):
    """A host, by name or number, and a TCP port."""

    host: Host
    port: Port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Tls(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to know a broker by its certificate, and how it knows us."""

    #: The certificates of the authorities that may vouch for it, as PEM text; nobody else's count.
    ca: str
    #: The name that its certificate bears; empty: the host of the endpoint.
    name: str = ""
    #: File with our own certificate and its key, as PEM; empty: we have none.
    certificate: str = ""
