"""Settings of ``source_adapter``."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from adapters.config import Port, Seconds
from schemas.ids import SiteName

#: At most a day: what happens never is no pace.
Pause = Annotated[float, Meta(gt=0, le=86400)]
#: What of these settings a source's table in ``sources`` of ``volcloud up`` may say.
PACES = ("most_at_once", "beat_every_s", "longest_pause_s")
#: What such a table has beside what its kind has.
OF_A_SOURCE = ("adapters", "grid_store", "catalogue", *PACES)


class SourceAdapterConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``source_adapter``: one source, whose credential no other process needs."""

    #: File with this adapter's broker credential: ``adapter-source-NAME``, and a number where there are several.
    credential: str
    #: SQLAlchemy URL of the ledger.
    ledger: str
    #: fsspec URL of the centre's store, as the storage adapters have it.
    store: str
    #: Local directory for files on their way from and to the grid.
    staging: str
    #: The source's name here: its jobs are ``adapter-source-NAME``'s.
    name: SiteName
    #: The source: ``kind``, and what that kind needs.
    source: dict[str, Any]
    #: Where outputs of jobs that are done go: ``kind``, and what that kind needs; without it the sandbox alone.
    grid_store: dict[str, Any] | None = None
    #: Where these are made known: ``kind``, and what that kind needs.
    catalogue: dict[str, Any] | None = None
    #: Jobs that are asked for at a time.
    most_at_once: Annotated[int, Meta(ge=1, le=1000)] = 100
    #: How often the grid hears how far jobs are, and says which are to be stopped.
    beat_every_s: Pause = 5.0
    #: How long a grid that has said that it has nothing is left alone at most; where it is not said 150 s, a spool 5 s.
    longest_pause_s: Pause | None = None
    #: How long an assignment that is made here lives without a beat.
    lease_s: Seconds = 90.0
    #: How often guests beat: one that has missed three is given nothing.
    beat_s: Seconds = 15.0
    #: As the job adapters have it: what is assigned here is kept for as long.
    staging_s: Seconds = 6 * 3600.0
    #: Where people have written the tables of this source, if not here: errors name that place.
    written_in: str = ""
    #: 0 = no metrics.
    metrics_port: Port = 0
    #: Address on which scrapes are answered.
    metrics_address: str = "127.0.0.1"
