"""DIRAC, by the REST interface of DiracX: jobs of its grids, run on volunteers' machines.

``jdl`` and ``work`` read what a job asks for, ``tokens``, ``http`` and ``client`` speak with the server, ``matchers``
and ``classic`` find jobs, ``sandboxes`` moves files, and ``source`` is the port.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapters.sources.contract import GridSource
from adapters.sources.dirac.settings import DiracSettings
from broker.daemon.plugins import Plugin
from broker.errors import ConfigError

if TYPE_CHECKING:
    from adapters.sources.dirac.client import DiracClient
    from adapters.sources.dirac.matchers import Matcher


def make_dirac(settings: DiracSettings, name: str) -> GridSource:
    """Make a source; no server is asked for anything yet. Raises ConfigError and SourceRefused."""
    from adapters.sources.certificates import Certificates
    from adapters.sources.dirac.client import DiracClient
    from adapters.sources.dirac.sandboxes import Sandboxes
    from adapters.sources.dirac.source import DiracSource
    from adapters.sources.http import Http, TokenRenewal
    from adapters.sources.tokens import TokenFile

    for key in ("operator_credential", "pilot_credential"):
        if not getattr(settings, key):
            raise ConfigError(f"source.{key} is missing: must be the path of a file that `dirac login` has written")
    renewal = TokenRenewal("/api/auth/token", settings.client_id)
    http = Http(settings.url, Certificates(settings.ca_file), settings.timeout_s, renewal)
    operator = TokenFile(Path(settings.operator_credential), "operator_credential")
    pilot = TokenFile(Path(settings.pilot_credential), "pilot_credential")
    client = DiracClient(http, operator, pilot)
    return DiracSource(client, _matcher(client, settings, name), Sandboxes(client, http), settings.site)


def _matcher(client: DiracClient, settings: DiracSettings, name: str) -> Matcher:
    from adapters.sources.dirac.classic import ClassicMatcher
    from adapters.sources.dirac.matchers import SearchMatcher

    if settings.matcher == "search":
        return SearchMatcher(client, settings, name)
    if not settings.matcher_command:
        raise ConfigError("source.matcher_command is missing: must be the program that asks DIRAC's matcher")
    return ClassicMatcher(client.look, settings)


plugin = Plugin(DiracSettings, make_dirac)
