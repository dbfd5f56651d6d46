"""Sources by kind, ours and those that others install: an entry point of ``volunteer_cloud.sources``.

It leads to a ``Plugin`` whose ``make`` is given the source's settings and its name, and gives a ``GridSource``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.errors import SourceRefused
from adapters.sources.contract import GridSource
from broker.daemon.plugins import Plugins

GROUP = "volunteer_cloud.sources"

SOURCES = Plugins(GROUP, "source", SourceRefused, has_secrets=True)


def make_source(table: Mapping[str, Any], name: str) -> GridSource:
    """Make the source that the table ``source`` of the settings names. Raises ConfigError and SourceRefused."""
    source: GridSource = SOURCES.make(table, "source", name)
    return source
