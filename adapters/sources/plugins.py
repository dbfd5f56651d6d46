"""Sources by kind, ours and those that others install: an entry point of ``volunteer_cloud.sources``.

It leads to a ``Plugin`` whose ``make`` is given the source's settings and its name, and gives a ``GridSource``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.errors import SourceRefused
from adapters.sources.contract import GridSource
from broker.daemon.plugins import Plugins
from broker.errors import ConfigError

GROUP = "volunteer_cloud.sources"
#: Where a source's table is; its package names its settings so.
HERE = "source"

SOURCES = Plugins(GROUP, "source", SourceRefused, has_secrets=True)


def make_source(table: Mapping[str, Any], name: str, where: str = HERE, beside: Sequence[str] = ()) -> GridSource:
    """Make the source that the table ``source`` of the settings names. Raises ConfigError and SourceRefused.

    Whoever wrote the table elsewhere, ``where``, with what is ``beside``, is told of it there.
    """
    try:
        source: GridSource = SOURCES.make(table, HERE, name, beside=beside)
    except ConfigError as error:
        raise ConfigError(f"{where}{str(error).removeprefix(HERE)}") from error
    return source
