"""The scrape configuration, filled in for one deployment.

Prometheus itself is not ours to start: an operator has one, and gets a file for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from string import Template

from broker.address import VHOST


def render_config(
    *,
    job_adapters: Sequence[str],
    storage_adapters: Sequence[str],
    brokers: Sequence[str],
    source_adapters: Sequence[str] = (),
    rules: Sequence[str] = ("rules.yml",),
    interval: str = "15s",
) -> str:
    """Render ``prometheus.yml`` for targets given as ``host:port``; paths of rules are relative to where it lies."""
    return Template(package_text("prometheus.yml")).substitute(
        job_adapters=_listed(job_adapters),
        storage_adapters=_listed(storage_adapters),
        source_adapters=_listed(source_adapters),
        brokers=_listed(brokers),
        rules=_listed(rules),
        interval=interval,
        vhost=VHOST,
    )


def package_text(name: str) -> str:
    """Read a file of this folder."""
    return (resources.files("deploy.prometheus") / name).read_text()


def _listed(words: Sequence[str]) -> str:
    """Write a list as YAML reads it: JSON is YAML."""
    return json.dumps(list(words))
