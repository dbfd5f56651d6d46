"""What the operator says of a DiracX server: where it is, which credentials, which jobs are taken."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from broker.daemon.plugins import PluginSettings


class DiracSettings(PluginSettings, frozen=True, kw_only=True, tag="dirac"):
    """A grid of DIRAC, by the REST interface of DiracX."""

    #: Where the server is: ``https://diracx.example.org``. Plain HTTP is for this machine alone.
    url: str = ""
    #: What the grid calls us: the site of its configuration that jobs are said to run at.
    site: Annotated[str, Meta(min_length=1, max_length=100)] = "CLOUD.Volunteer.org"
    #: File of the credential that searches and moves sandboxes: of a group with NormalUser and JobAdministrator.
    operator_credential: str = ""
    #: File of the credential that matches jobs and says how they are: of a group with GenericPilot.
    pilot_credential: str = ""
    #: Client by which tokens are refreshed, as the server's own ``dirac login`` is called.
    client_id: str = "myDIRACClientID"
    #: File of certificates that the server's is checked against, or a directory of them by their hashes, as grids have
    #: it; empty = the system's.
    ca_file: str = ""
    #: How long one answer may take, seconds.
    timeout_s: Annotated[float, Meta(ge=1, le=30)] = 15.0
    #: Who finds jobs: ``search`` for those that wait, or ``classic``, DIRAC's own matcher, by a program of yours.
    matcher: Literal["search", "classic"] = "search"
    #: That program and its arguments.
    matcher_command: Annotated[list[str], Meta(max_length=100)] = []
    #: Attributes that a job must have to be taken, such as ``{JobType = "User", VO = "biomed"}``.
    only: dict[str, str] = {}
    #: How fast a core here is beside the unit of the grid's CPU time; a job's wall time is its CPU time by this.
    cpu_factor: Annotated[float, Meta(ge=0.01, le=1000)] = 1.0
    #: Platforms by the grid's word for them: ``{"Debian12" = "linux-x86_64"}``.
    platforms: dict[str, str] = {}
