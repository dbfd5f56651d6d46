"""The grid store ``xrootd``: how it is set, and what must be there before it is made. It loads XRootD only then."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from adapters.errors import GridStoreRefused
from adapters.grid_stores.contract import GridStore
from broker.daemon.plugins import Plugin, PluginSettings

XROOTD_URL_PATTERN = r"^roots?://[A-Za-z0-9._\[\]:-]+/(/[A-Za-z0-9._~+=-]+)+$(?!\n)"
_DOTS = re.compile(r"/\.{1,2}(/|$)")

#: By what XRootD's plugins for authentication are told, in the environment of the process, where credentials are.
PROXY_VARIABLE, TOKEN_VARIABLE = "X509_USER_PROXY", "BEARER_TOKEN_FILE"


class XrootdSettings(PluginSettings, frozen=True, kw_only=True, tag="xrootd"):
    """A directory of an XRootD server, or of a redirector."""

    #: The directory, such as root://se.example.org:1094//grid/volunteers; roots:// is by TLS.
    url: Annotated[
        str,
        Meta(
            pattern=XROOTD_URL_PATTERN,
            description="root://HOST[:PORT]//PATH, with two slashes before the path",
            examples=["root://se.example.org//grid/volunteers"],
        ),
    ] = "root://localhost//grid"
    #: How long an answer, or a part of a file on its way, may take. Uploads of all stores of one process have the last
    #: one's.
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    #: File of an X.509 proxy that is kept fresh by others; empty: as the environment says.
    proxy: str = ""
    #: File of a bearer token that is kept fresh by others; empty: as the environment says.
    token: str = ""


def make_xrootd(settings: XrootdSettings) -> GridStore:
    """Make the store. Raises GridStoreRefused where XRootD's package, or a file to log in with, is missing."""
    if _DOTS.search(settings.url):
        raise GridStoreRefused(f"grid store {settings.url}: a path without . and .. is needed")
    _set_credential(PROXY_VARIABLE, settings.proxy, settings.url, "proxy")
    _set_credential(TOKEN_VARIABLE, settings.token, settings.url, "token")
    try:
        from adapters.grid_stores.xrootd_store import XrootdStore
    except ImportError as error:
        raise GridStoreRefused(
            f"grid store {settings.url}: XRootD's Python package is not there ({error}); install it:"
            " pip install 'volunteer-cloud[xrootd]'"
        ) from error
    return XrootdStore(settings.url, settings.timeout_s)


def _set_credential(variable: str, file: str, url: str, setting: str) -> None:
    """Have XRootD log in with a file. It looks it up by the process's environment, so that there is one for all."""
    there = os.environ.get(variable, "")
    if file and there and there != file:
        raise GridStoreRefused(
            f"grid store {url}: the setting {setting} names the file {file!r}, and {variable} of this process is"
            f" {there!r} already; one process has one: say the same, or use a process for each"
        )
    if not (file or there):
        return
    named_by = f"the setting {setting}" if file else variable
    _demand_readable(Path(file or there), f"grid store {url}: the file {file or there!r}, which {named_by} names,")
    os.environ[variable] = file or there


def _demand_readable(file: Path, where: str) -> None:
    try:
        with file.open("rb") as opened:
            is_empty = not opened.read(1)
    except OSError as error:
        raise GridStoreRefused(f"{where} cannot be read: {error.strerror}; we cannot log in without") from error
    if is_empty:
        raise GridStoreRefused(f"{where} is empty; we cannot log in without")


plugin = Plugin(XrootdSettings, make_xrootd)
