"""The catalogue ``rucio``: how it is set, and what must be there before it is made. It loads httpx only then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from adapters.catalogues.contract import Catalogue
from adapters.errors import CatalogueRefused
from broker.daemon.plugins import Plugin, PluginSettings

RUCIO_URL_PATTERN = r"^https?://[A-Za-z0-9._\[\]:-]+(/[A-Za-z0-9._~/-]*)?$(?!\n)"
#: Where a secret may go in the clear: it does not leave the machine.
_LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/|$)")

Short = Annotated[str, Meta(max_length=100)]


class RucioSettings(PluginSettings, frozen=True, kw_only=True, tag="rucio"):
    """A Rucio server. What we log in with is in files, read anew at each login; nothing secret is here."""

    #: Where its REST interface is; by https, unless it is on this machine.
    url: Annotated[
        str, Meta(pattern=RUCIO_URL_PATTERN, description="https://HOST[:PORT]", examples=["https://rucio.example.org"])
    ] = "https://localhost"
    #: Where logins go; empty: to the same.
    auth_url: Annotated[str, Meta(pattern=f"{RUCIO_URL_PATTERN}|^$(?!\\n)")] = ""
    #: The account for which files are registered.
    account: Short = ""
    #: The scope of their names.
    scope: Short = ""
    #: The storage element (RSE) that the grid's store is in Rucio.
    rse: Short = ""
    #: How to log in: with a user's password, with a token that others keep fresh, or with an X.509 proxy.
    auth: Literal["userpass", "token", "proxy"] = "userpass"
    #: Of ``userpass``.
    username: Short = ""
    #: File of the password, of the token, or of the proxy.
    secret_file: str = ""
    #: File of the authorities that the server's certificate is signed by; empty: this machine's.
    ca: str = ""
    #: What stands between the parts of a name; Rucio servers whose names may hold no slash have the dots.
    separator: Literal["/", ".."] = "/"
    #: How long one answer may take.
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60


def make_rucio(settings: RucioSettings) -> Catalogue:
    """Make the catalogue. Raises CatalogueRefused where a setting, a file to log in with, or httpx is missing."""
    needed = ["account", "scope", "rse", "secret_file", *(["username"] if settings.auth == "userpass" else [])]
    missing = [name for name in needed if not getattr(settings, name)]
    if missing:
        raise CatalogueRefused(f"catalogue {settings.url}: {', '.join(missing)} must be set")
    for url in filter(None, (settings.url, settings.auth_url)):
        if not (url.startswith("https://") or _LOOPBACK.match(url)):
            raise CatalogueRefused(f"catalogue {url}: must be https://, since we log in there")
    for setting in ("secret_file", "ca"):
        _demand_readable(setting, getattr(settings, setting), settings.url)
    try:
        from adapters.catalogues.rucio_catalogue import RucioCatalogue
    except ImportError as error:
        raise CatalogueRefused(
            f"catalogue {settings.url}: a package is not there ({error}); install it:"
            " pip install 'volunteer-cloud[rucio]'"
        ) from error
    return RucioCatalogue(settings)


def _demand_readable(setting: str, file: str, url: str) -> None:
    if not file:
        return
    try:
        with Path(file).open("rb") as opened:
            is_empty = not opened.read(1)
    except OSError as error:
        raise CatalogueRefused(f"catalogue {url}: {setting} = {file!r}: cannot be read: {error.strerror}") from error
    if is_empty:
        raise CatalogueRefused(f"catalogue {url}: {setting} = {file!r}: is empty")


plugin = Plugin(RucioSettings, make_rucio)
