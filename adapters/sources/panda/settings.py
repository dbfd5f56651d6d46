"""What the operator says of a PanDA server: where it is, which credential, which queue's jobs are taken."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from broker.daemon.plugins import PluginSettings


class PandaSettings(PluginSettings, frozen=True, kw_only=True, tag="panda"):
    """A queue of PanDA, by the REST interface ``/api/v1``."""

    #: Where the server is: ``https://pandaserver.example.org``. Plain HTTP is for this machine alone.
    url: str = ""
    #: Where it keeps files, if that is elsewhere; empty = ``url``.
    cache_url: str = ""
    #: The PanDA queue whose jobs are taken.
    queue: Annotated[str, Meta(max_length=100)] = ""
    #: Kind of its jobs, ``prodSourceLabel``: ``managed``, ``user``, ``unified`` and so on; empty = as ``managed``.
    label: Annotated[str, Meta(max_length=20)] = ""
    #: File of a token with the role of production, which something else renews.
    token: str = ""
    #: VO and role of the token, as PanDA has it: ``VO.production``.
    origin: Annotated[str, Meta(max_length=200, pattern=r"^[\x21-\x7e]*$")] = ""
    #: File of a certificate or proxy in the place of a token, which something else renews.
    certificate: str = ""
    #: File of its key, if that is in another.
    key: str = ""
    #: File of certificates that the server's is checked against, or a directory of them by their hashes, as grids have
    #: it; empty = the system's.
    ca_file: str = ""
    #: How long one answer may take, seconds.
    timeout_s: Annotated[float, Meta(ge=1, le=30)] = 25.0
    #: How long one input may take, seconds.
    input_s: Annotated[float, Meta(ge=1, le=7200)] = 900.0
    #: The queue's resource types that are taken, with the most cores that their jobs ask for, as in
    #: ``{SCORE = 1, MCORE = 8}``. A machine is given jobs of those that it has the cores for; without, of any.
    resource_types: dict[str, Annotated[int, Meta(ge=1, le=256)]] = {}
    #: Where files of an endpoint are to be had, in Rucio's order: ``{CERN_DATADISK = "https://dav.example.org/rucio"}``;
    #: ``"*"`` is any endpoint.
    storage: dict[str, str] = {}
    #: Addresses below which a transformation may be fetched, beside the server's own.
    programs_from: Annotated[list[str], Meta(max_length=100)] = []
    #: Updates of jobs that PanDA is asked to take a second, all together, when there are many.
    updates_per_s: Annotated[float, Meta(ge=1, le=1000)] = 50.0
