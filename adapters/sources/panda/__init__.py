"""PanDA, by its REST interface ``/api/v1``: jobs of its queues, run on volunteers' machines.

``record``, ``files`` and ``work`` read what a job asks for, ``states``, ``reports`` and ``answers`` are PanDA's words
both ways, ``asks`` says what a queue is asked for, ``client`` speaks with the server, ``beats`` tells it how jobs are,
``stores`` moves files, and ``source`` is the port.
"""

from __future__ import annotations

from pathlib import Path

from adapters.sources.contract import GridSource
from adapters.sources.panda.settings import PandaSettings
from broker.daemon.plugins import Plugin
from broker.errors import ConfigError


def make_panda(settings: PandaSettings, name: str) -> GridSource:
    """Make a source; no server is asked for anything yet. Raises ConfigError, SourceRefused and SourceUnavailable."""
    from adapters.sources.certificates import Certificates
    from adapters.sources.http import Http, demand_address
    from adapters.sources.panda.answers import is_refused_token
    from adapters.sources.panda.client import PandaClient
    from adapters.sources.panda.source import PandaSource
    from adapters.sources.panda.stores import Stores
    from adapters.sources.tokens import TokenFile

    _demand_credential(settings)
    for key, url in _addresses(settings):
        demand_address(url, f"source.{key}")
    certificates = Certificates(settings.ca_file, settings.certificate, settings.key)
    headers = {"Origin": settings.origin} if settings.token else {}
    servers = [settings.url, *([settings.cache_url] if settings.cache_url else [])]
    https = [
        Http(url, certificates, settings.timeout_s, is_refused=is_refused_token, headers=headers) for url in servers
    ]
    token = TokenFile(Path(settings.token), "token") if settings.token else None
    client = PandaClient(https[0], https[-1], token, settings, name)
    return PandaSource(client, Stores(client, https[0], servers[-1]), settings)


def _demand_credential(settings: PandaSettings) -> None:
    if not settings.queue:
        raise ConfigError("source.queue is missing: must be the name of the PanDA queue whose jobs are taken")
    if not settings.token and not settings.certificate:
        raise ConfigError(
            "source.token is missing: must be the file of a token, or source.certificate the file of a proxy"
        )
    if settings.token and not settings.origin:
        raise ConfigError(
            "source.origin is missing: must be the VO and role of the token, as PanDA has it: VO.production"
        )


def _addresses(settings: PandaSettings) -> list[tuple[str, str]]:
    """Give what must be addresses, each with its key."""
    storage = [(f"storage.{endpoint}", url) for endpoint, url in settings.storage.items()]
    programs = [("programs_from", url) for url in settings.programs_from]
    return [("cache_url", settings.cache_url or settings.url), *storage, *programs]


plugin = Plugin(PandaSettings, make_panda)
